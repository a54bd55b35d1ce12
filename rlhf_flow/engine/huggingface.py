"""Generation by plain transformers: slower than vLLM, and needs nothing but torch.

Answers are drawn by inverting the distribution function with one uniform number per token, which comes from the seed of
the answer alone. So in float32 an answer depends neither on what else is in the batch nor on the size of the batch
(beyond rounding that would have to fall on the edge between two tokens).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.engine.decoding import DecodingBatch, measured
from rlhf_flow.engine.loaded_policy import LoadedPolicy, state_shapes
from rlhf_flow.engine.lora_hooks import LoRAHooks
from rlhf_flow.engine.mixture import PolicySlots
from rlhf_flow.engine.requests import Sample, answered, check, first_seed
from rlhf_flow.specs import Model, Place
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.model_sizes import sizes_of
from rlhf_flow.weights.offload import HostOffload
from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TAIL = 8  # tokens that are decoded before a text that stops: a tokenizer may change the first of what it decodes


@dataclass(frozen=True)
class HuggingFace:
    """An engine of plain transformers."""

    batch: int = 64  # answers that are drawn side by side
    max_model_len: int | None = None  # tokens of prompt and answer; None: as many as the run needs
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
    def needs_own_process(self) -> bool:
        return False

    @property
    def can_mix(self) -> bool:
        return True

    def max_sequence(self, positions: int | None) -> int | None:
        limits = [limit for limit in (positions, self.max_model_len) if limit is not None]
        return min(limits, default=None)

    def sized(self, longest: int) -> HuggingFace:
        return self if self.max_model_len is not None else replace(self, max_model_len=longest)

    def check(self) -> None:
        """There is nothing that could be missing."""

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> HuggingFaceEngine:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(place.threads)
        source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
        networks = [
            AutoModelForCausalLM.from_pretrained(model.path, dtype=dtype, **source) for _ in range(2 if mixes else 1)
        ]
        positions = sizes_of(networks[0].config).positions
        if self.max_model_len is not None and positions is not None and self.max_model_len > positions:
            raise ValueError(
                f"engine.max_model_len must not exceed the {positions} positions of {model.path!r}, "
                f"got {self.max_model_len}"
            )
        return HuggingFaceEngine(
            self,
            model,
            [network.to(place.device).eval() for network in networks],  # type: ignore[arg-type]  # a wrapped `to`
            model.tokenizer(),
            max_model_len=self.max_model_len or positions or sys.maxsize,
        )


class HuggingFaceEngine:
    """A live model, or two of them where mixtures are drawn. One caller at a time."""

    def __init__(
        self,
        spec: HuggingFace,
        model: Model,
        networks: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_model_len: int,
    ) -> None:
        self._aside = HostOffload()
        self._batch = spec.batch
        self._networks = networks
        self._tokenizer = tokenizer
        self._ends = end_tokens(model.path, tokenizer, revision=model.revision)
        self._max_model_len = max_model_len
        shapes = state_shapes(networks[0])
        holdings = [
            LoadedPolicy(model, shapes, max_model_len=max_model_len, tolerance=spec.probe_tolerance) for _ in networks
        ]
        self._adapters = [LoRAHooks(network) for network in networks]
        self._slots = PolicySlots(holdings, put=self._put, measure=self._measure, lay=self._lay)

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Draw `draw.n` answers per prompt from exactly `policy`.

        Raises ValueError where a prompt and `draw.max_tokens` do not fit, for a greedy draw that asks for copies, and
        for a mixture that the engine was not opened for.
        """
        check(prompts, draw, self._max_model_len)
        weight = self._slots.hold(policy)
        wanted = [
            (row, prompt, first_seed(seed, round, prompt, draw) + k)
            for row, prompt in enumerate(prompts)
            for k in range(draw.n)
        ]
        wanted.sort(key=lambda each: len(each[1].tokens))  # stable: a prompt's answers stay side by side
        samples: list[list[Sample]] = [[] for _ in prompts]
        for at in range(0, len(wanted), self._batch):
            part = wanted[at : at + self._batch]
            drawn = self._draw([prompt.tokens for _, prompt, _ in part], [one for _, _, one in part], draw, weight)
            for (row, _, _), sample in zip(part, drawn, strict=True):
                samples[row].append(sample)
        return answered(prompts, samples, policy, draw, self._tokenizer, round=round, seed=seed)

    def logps(self, rollouts: Rollouts, policy: Policy | Mixture) -> list[np.ndarray]:
        """float32 [T] per response, prompts first, under `policy` at T=1."""
        weight = self._slots.hold(policy)
        return [
            self._measure(weight, [*prompt.tokens, *response.tokens.tolist()], len(prompt.tokens))
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
        ]

    def has(self, policy: Policy) -> bool:
        return self._slots.has(policy)

    def take(self, policy: Policy) -> None:
        """Load its weights now, and come back for it; raises as `generate`."""
        self.come_back()
        self._slots.take(policy)

    def step_aside(self) -> None:
        """The networks leave the device; an adapter beside them, which is small, stays."""
        self._aside.leave(self._networks[0].device, *self._networks)

    def come_back(self) -> None:
        self._aside.come_back()

    def close(self) -> None:
        del self._networks, self._adapters

    def _put(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        self._adapters[slot].lay(None)
        own = self._networks[slot].state_dict()
        for name, tensor in tensors:
            own[name].copy_(tensor)

    def _lay(self, slot: int, adapter: Adapter | None) -> None:
        self._adapters[slot].lay(adapter)

    def _measure(self, weight: float, tokens: Sequence[int], first: int) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return measured(self._at_work(weight), weight, tokens, first).cpu().numpy()

    def _at_work(self, weight: float) -> list[PreTrainedModel]:
        """The networks that have a share in what comes next; `weight` is that of the second."""
        shares = (1 - weight, weight)
        return [network for network, share in zip(self._networks, shares, strict=False) if share > 0]

    def _draw(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], draw: SamplingParams, weight: float
    ) -> list[Sample]:
        """One answer per row; rows that ended leave the batch when they are half of it."""
        import torch

        device = self._networks[0].device
        rows, ends = len(seeds), torch.tensor(self._ends, device=device)
        uniforms = torch.from_numpy(np.stack([np.random.default_rng(one).random(draw.max_tokens) for one in seeds]))
        uniforms = uniforms.to(device)  # float64 [R, T]
        tokens = torch.zeros((rows, draw.max_tokens), dtype=torch.int64, device=device)  # [R, T]
        logps = torch.zeros((rows, draw.max_tokens), device=device)  # [R, T]
        with torch.inference_mode():
            reading = DecodingBatch(self._at_work(weight), weight, prompts)
            alive = torch.arange(rows, device=device)  # the rows of the answers still in the batch
            ended = torch.zeros(rows, dtype=torch.bool, device=device)
            lengths = torch.zeros(rows, dtype=torch.int64, device=device)  # [R], of the answers that ended
            seen = _seen(prompts, reading.logits)  # bool [R, V]
            for step in range(draw.max_tokens):
                logits = penalised(reading.logits, seen[alive], draw.repetition_penalty)
                chosen = choose(logits, uniforms[alive, step], draw)  # [A]
                tokens[alive, step] = chosen
                seen[alive, chosen] = True
                logps[alive, step] = reading.logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
                ends_now = ~ended & (torch.isin(chosen, ends) | self._stops(tokens[alive, : step + 1], draw))
                lengths[alive[ends_now]] = step + 1
                ended |= ends_now
                left = int((~ended).sum())
                if left == 0 or step + 1 == draw.max_tokens:
                    break
                if left <= len(alive) // 2:
                    going = (~ended).nonzero()[:, 0]
                    alive, chosen, ended = (t[going] for t in (alive, chosen, ended))
                    reading.keep(going)
                reading.go_on(chosen)
        drawn = zip(tokens.int().cpu().numpy(), logps.cpu().numpy(), lengths.tolist(), strict=True)
        return [_sample(*one) for one in drawn]

    def _stops(self, tokens: Tensor, draw: SamplingParams) -> Tensor:
        """bool [A]: whether the last of tokens [A, T] completes a text that stops. A token has one byte at least."""
        import torch

        if not draw.stop:
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        reach = max(len(text.encode()) for text in draw.stop) + TAIL
        texts = self._tokenizer.batch_decode(
            tokens[:, -reach:].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return torch.tensor([draw.ends(text) is not None for text in texts], device=tokens.device)


def _sample(tokens: np.ndarray, logps: np.ndarray, length: int) -> Sample:
    """An answer of `length` tokens; 0: it did not end, so that it has all of them."""
    end = length or len(tokens)
    return Sample(tokens[:end].copy(), logps[:end].copy(), truncated=not length)


def _seen(prompts: Sequence[tuple[int, ...]], logits: Tensor) -> Tensor:
    """bool [R, V]: the tokens of each prompt. `logits` [R, V] gives the shape and the device."""
    import torch

    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for row, prompt in enumerate(prompts):
        seen[row, list(prompt)] = True
    return seen


def penalised(logits: Tensor, seen: Tensor, penalty: float | None) -> Tensor:
    """logits [R, V] with those of seen tokens divided by the penalty if they are positive, multiplied otherwise."""
    if penalty is None or penalty == 1:
        return logits
    return logits.where(~seen, (logits / penalty).where(logits > 0, logits * penalty))


def choose(logits: Tensor, uniforms: Tensor, draw: SamplingParams) -> Tensor:
    """Tokens [R] from logits [R, V] by a uniform number in [0, 1) each: temperature, then min_p, top_k and top_p."""
    import torch

    if draw.temperature == 0:
        return logits.argmax(-1)
    probs = (logits.double() / draw.temperature).softmax(-1)  # [R, V]
    if draw.min_p:
        probs = probs * (probs >= draw.min_p * probs.amax(-1, keepdim=True))
        probs = probs / probs.sum(-1, keepdim=True)
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
