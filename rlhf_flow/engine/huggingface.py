"""Generation by plain transformers: slower than vLLM, and needs nothing but torch.

Answers are drawn by inverting the distribution function with one uniform number per token, which comes from the seed of
the answer alone. So in float32 an answer depends neither on what else is in the batch nor on the size of the batch
(beyond rounding that would have to fall on the edge between two tokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.engine.asking import Sample, answered, check, end_tokens, first_seed
from rlhf_flow.engine.holding import Holding
from rlhf_flow.protocols import Model, Place
from rlhf_flow.types import Draw, Policy, Prompt, Rollouts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import DynamicCache


@dataclass(frozen=True)
class HuggingFace:
    """An engine of plain transformers."""

    batch: int = 64  # answers that are drawn side by side
    max_model_len: int | None = None  # tokens of prompt and answer; None: as many as the model has positions
    probe_tolerance: float | None = None  # nats; None: 1e-3 (largest) in float32, 0.2 (mean) in bfloat16

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"engine.batch must be >= 1, got {self.batch}")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ValueError(f"engine.max_model_len must be >= 2, got {self.max_model_len}")
        if self.probe_tolerance is not None and not self.probe_tolerance > 0:
            raise ValueError(f"engine.probe_tolerance must be > 0, got {self.probe_tolerance}")

    @property
    def gpus(self) -> int:
        return 1

    @property
    def alone(self) -> bool:
        return False

    def reads_at_most(self, positions: int | None) -> int | None:
        limits = [limit for limit in (positions, self.max_model_len) if limit is not None]
        return min(limits, default=None)

    def check(self) -> None:
        """There is nothing that could be missing."""

    def open(self, model: Model, place: Place) -> HuggingFaceEngine:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(place.threads)
        source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        network = AutoModelForCausalLM.from_pretrained(
            model.path, dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype], **source
        )
        positions = network.config.max_position_embeddings
        if self.max_model_len is not None and self.max_model_len > positions:
            raise ValueError(
                f"engine.max_model_len must not exceed the {positions} positions of {model.path!r}, "
                f"got {self.max_model_len}"
            )
        return HuggingFaceEngine(
            self,
            model,
            network.to(place.device).eval(),  # type: ignore[arg-type]  # transformers wraps `to`
            AutoTokenizer.from_pretrained(model.path, **source),
            max_model_len=self.max_model_len or positions,
        )


class HuggingFaceEngine:
    """A live model. One caller at a time."""

    def __init__(
        self,
        spec: HuggingFace,
        model: Model,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_model_len: int,
    ) -> None:
        self._batch = spec.batch
        self._network = network
        self._tokenizer = tokenizer
        self._ends = end_tokens(model, tokenizer)
        self._max_model_len = max_model_len
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        self._holding = Holding(model, shapes, max_model_len=max_model_len, tolerance=spec.probe_tolerance)

    def generate(self, prompts: Sequence[Prompt], policy: Policy, draw: Draw, *, round: int, seed: int) -> Rollouts:
        """Draw `draw.n` answers per prompt from exactly `policy`.

        Raises ValueError where a prompt and `draw.max_tokens` do not fit, or a greedy draw asks for copies.
        """
        check(prompts, draw, self._max_model_len)
        self._hold(policy)
        wanted = [
            (row, prompt, first_seed(seed, round, prompt, draw) + k)
            for row, prompt in enumerate(prompts)
            for k in range(draw.n)
        ]
        wanted.sort(key=lambda each: len(each[1].tokens))  # stable: a prompt's answers stay side by side
        samples: list[list[Sample]] = [[] for _ in prompts]
        for at in range(0, len(wanted), self._batch):
            part = wanted[at : at + self._batch]
            drawn = self._draw([prompt.tokens for _, prompt, _ in part], [one for _, _, one in part], draw)
            for (row, _, _), sample in zip(part, drawn, strict=True):
                samples[row].append(sample)
        return answered(prompts, samples, policy, draw, self._tokenizer, round=round, seed=seed)

    def logps(self, rollouts: Rollouts, policy: Policy) -> list[np.ndarray]:
        """float32 [T] per response, prompts first, under `policy` at T=1."""
        self._hold(policy)
        return [
            self._measure([*prompt.tokens, *response.tokens.tolist()], len(prompt.tokens))
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
        ]

    def close(self) -> None:
        del self._network

    def _hold(self, policy: Policy) -> None:
        self._holding.fetch(policy, put=self._put, measure=self._measure)

    def _put(self, state: Mapping[str, Tensor]) -> None:
        self._network.load_state_dict(dict(state), strict=True)

    def _measure(self, tokens: Sequence[int], first: int) -> np.ndarray:
        import torch

        ids = torch.tensor([list(tokens)], device=self._network.device)  # [1, S]
        with torch.inference_mode():
            logits = self._network(input_ids=ids, use_cache=False).logits[0, first - 1 : -1].float()  # [T, V]
            return logits.log_softmax(-1).gather(-1, ids[0, first:, None])[:, 0].cpu().numpy()  # [T]

    def _draw(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], draw: Draw) -> list[Sample]:
        """One answer per row; rows that ended leave the batch when they are half of it."""
        import torch

        device = self._network.device
        rows, ends = len(seeds), torch.tensor(self._ends, device=device)
        uniforms = torch.from_numpy(np.stack([np.random.default_rng(one).random(draw.max_tokens) for one in seeds]))
        uniforms = uniforms.to(device)  # float64 [R, T]
        tokens = torch.zeros((rows, draw.max_tokens), dtype=torch.int64, device=device)  # [R, T]
        logps = torch.zeros((rows, draw.max_tokens), device=device)  # [R, T]
        with torch.inference_mode():
            logits, mask, cache = self._prefill(prompts)  # [R, V], [R, S]
            position = mask.sum(-1)  # [R]
            alive = torch.arange(rows, device=device)  # the rows of the answers still in the batch
            ended = torch.zeros(rows, dtype=torch.bool, device=device)
            for step in range(draw.max_tokens):
                chosen = choose(logits, uniforms[alive, step], draw)  # [A]
                tokens[alive, step] = chosen
                logps[alive, step] = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
                ended |= torch.isin(chosen, ends)
                left = int((~ended).sum())
                if left == 0 or step + 1 == draw.max_tokens:
                    break
                if left <= len(alive) // 2:
                    going = (~ended).nonzero()[:, 0]
                    alive, chosen, position, mask, ended = (t[going] for t in (alive, chosen, position, mask, ended))
                    cache.batch_select_indices(going)
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=-1)
                logits = self._last_logits(chosen[:, None], mask, position[:, None], cache)  # [A, V]
                position = position + 1
        return [self._cut(*pair) for pair in zip(tokens.int().cpu().numpy(), logps.cpu().numpy(), strict=True)]

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Logits after each prompt, the attention mask and the cache; a prompt that occurs n times is read once."""
        import torch
        from transformers.cache_utils import DynamicCache

        device = self._network.device
        distinct = list(dict.fromkeys(prompts))
        longest = max(len(prompt) for prompt in distinct)
        pads = [longest - len(prompt) for prompt in distinct]  # on the left, so that every answer begins in one column
        padded = [[0] * pad + list(prompt) for pad, prompt in zip(pads, distinct, strict=True)]
        ids = torch.tensor(padded, device=device)  # [U, S]
        mask = (torch.arange(longest, device=device) >= torch.tensor(pads, device=device)[:, None]).long()  # [U, S]
        cache = DynamicCache(config=self._network.config)
        logits = self._last_logits(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)  # [U, V]
        index = {prompt: row for row, prompt in enumerate(distinct)}
        fan = torch.tensor([index[prompt] for prompt in prompts], device=device)  # [R]
        cache.batch_select_indices(fan)
        return logits[fan], mask[fan], cache

    def _last_logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """float32 [R, V] after the last column of ids [R, S]; the cache grows by S."""
        output = self._network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        if logits.isnan().any():
            raise RuntimeError(
                "the policy's logits are NaN: its weights or its numerics are broken; nothing was sampled"
            )
        return logits

    def _cut(self, tokens: np.ndarray, logps: np.ndarray) -> Sample:
        """What was drawn after the end token is no part of the answer."""
        ends = np.isin(tokens, self._ends).nonzero()[0]
        length = len(tokens) if len(ends) == 0 else int(ends[0]) + 1
        return Sample(tokens[:length].copy(), logps[:length].copy(), truncated=len(ends) == 0)


def choose(logits: Tensor, uniforms: Tensor, draw: Draw) -> Tensor:
    """Tokens [R] from logits [R, V] by one uniform number in [0, 1) each: temperature, then top_k, then top_p."""
    import torch

    if draw.temperature == 0:
        return logits.argmax(-1)
    probs = (logits.double() / draw.temperature).softmax(-1)  # [R, V]
    if draw.top_k == 0 and draw.top_p == 1:
        order = None
    else:
        probs, order = probs.sort(dim=-1, descending=True, stable=True)
        if draw.top_k:
            probs = probs[:, : draw.top_k] / probs[:, : draw.top_k].sum(-1, keepdim=True)
        before = probs.cumsum(-1) - probs  # mass of the likelier tokens
        probs = probs * (before < draw.top_p)
    cdf = probs.cumsum(-1)
    rank = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True).clamp(max=probs.shape[-1] - 1)  # [R, 1]
    return (rank if order is None else order.gather(-1, rank))[:, 0]
