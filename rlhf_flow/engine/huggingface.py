"""Generation with plain transformers: slower than vLLM, but it needs only torch.

Each token is sampled by inverting the CDF at a uniform number that depends on the answer's seed alone. So in float32 an
answer does not depend on its batch, except if rounding moves the CDF across that number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rlhf_flow.engine.decoding import DecodingBatch, log_probs
from rlhf_flow.engine.loaded_policy import LoadedPolicy, state_shapes
from rlhf_flow.engine.lora_hooks import LoRAHooks
from rlhf_flow.engine.mixture import PolicySlots
from rlhf_flow.engine.requests import Sample, answered, check, continued, first_seed, shorter
from rlhf_flow.specs import Model, Place
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.model_sizes import sizes_of
from rlhf_flow.weights.offload import HostOffload
from rlhf_flow.weights.soft_caps import keep_soft_caps
from rlhf_flow.weights.source import Adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TAIL = 8  # tokens decoded before a stop text, because tokenizers may change the first of the decoded tokens


@dataclass(frozen=True)
class HuggingFace:
    """An engine that uses plain transformers."""

    gpus: ClassVar[int] = 1
    needs_own_process: ClassVar[bool] = False
    can_mix: ClassVar[bool] = True
    batch: int = 64  # answers generated at a time
    max_model_len: int | None = None  # tokens of prompt and answer; None: as many as the run needs
    threads: int | None = None  # CPU threads; null: all cores that no other process uses meanwhile
    probe_tolerance: float | None = None  # nats; None: 1e-3 (largest) in float32, 0.2 (mean) in bfloat16

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"engine.batch must be >= 1, got {self.batch}")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ValueError(f"engine.max_model_len must be >= 2, got {self.max_model_len}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"engine.threads must be >= 1, or null, got {self.threads}")
        if self.probe_tolerance is not None and not self.probe_tolerance > 0:
            raise ValueError(f"engine.probe_tolerance must be > 0, got {self.probe_tolerance}")

    def max_sequence(self, positions: int | None) -> int | None:
        return shorter(positions, self.max_model_len)

    def sized(self, longest: int) -> HuggingFace:
        return self if self.max_model_len is not None else replace(self, max_model_len=longest)

    def check(self) -> None:
        """It needs no extra package."""

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> HuggingFaceEngine:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(place.with_threads(self.threads).threads)
        source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
        networks = [
            AutoModelForCausalLM.from_pretrained(model.path, dtype=dtype, **source) for _ in range(2 if mixes else 1)
        ]
        for network in networks:
            keep_soft_caps(network)
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
    """One model, or two for mixtures. Not thread-safe."""

    def __init__(
        self,
        spec: HuggingFace,
        model: Model,
        networks: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_model_len: int,
    ) -> None:
        self._offload = HostOffload()
        self._batch = spec.batch
        self._networks = networks
        self._tokenizer = tokenizer
        self._ends = end_tokens(model.path, tokenizer, revision=model.revision)
        self._max_model_len = max_model_len
        shapes = state_shapes(networks[0])
        loaded = [
            LoadedPolicy(model, shapes, max_model_len=max_model_len, tolerance=spec.probe_tolerance) for _ in networks
        ]
        self._adapters = [LoRAHooks(network) for network in networks]
        self._slots = PolicySlots(loaded, load=self._load, measure=self._measure, set_adapter=self._set_adapter)

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Sample `draw.n` answers per prompt from `policy`.

        Raises ValueError if a prompt and `draw.max_tokens` do not fit, or if the engine was not opened for mixtures.
        """
        return Rollouts.gathered(prompts, self.stream(prompts, policy, draw, round=round, seed=seed), round)

    def stream(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `generate`, in pieces: the prompts that a batch of answers finished."""
        check(prompts, draw, self._max_model_len)
        weight = self._slots.hold(policy)
        wanted = [
            (row, prompt, first_seed(seed, round, prompt, draw) + k)
            for row, prompt in enumerate(prompts)
            for k in range(draw.n)
        ]
        wanted.sort(key=lambda each: len(each[1].context))  # stable: the answers to a prompt stay together
        samples: list[list[Sample]] = [[] for _ in prompts]
        for at in range(0, len(wanted), self._batch):
            part = wanted[at : at + self._batch]
            drawn = self._draw([prompt.context for _, prompt, _ in part], [one for _, _, one in part], draw, weight)
            for (row, _, _), sample in zip(part, drawn, strict=True):
                samples[row].append(sample)
            if done := [row for row in dict.fromkeys(row for row, _, _ in part) if len(samples[row]) == draw.n]:
                asked, answers = [prompts[row] for row in done], [samples[row] for row in done]
                yield answered(asked, answers, policy, draw, self._tokenizer, round=round, seed=seed)

    def logps(self, rollouts: Rollouts, policy: Policy | Mixture) -> list[np.ndarray]:
        """float32 [T] per response, prompts first, under `policy` at T=1."""
        weight = self._slots.hold(policy)
        return [
            self._measure(weight, [*context, *response.tokens.tolist()], len(context))
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
            for context in [continued(prompt, response)]
        ]

    def step_aside(self) -> None:
        """Offload the networks to the host. The adapter is small and stays."""
        self._offload.leave(self._networks[0].device, *self._networks)

    def come_back(self) -> None:
        self._offload.come_back()

    def close(self) -> None:
        del self._networks, self._adapters

    def _load(self, slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
        self._adapters[slot].set(None)
        own = self._networks[slot].state_dict()
        for name, tensor in tensors:
            own[name].copy_(tensor)

    def _set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        self._adapters[slot].set(adapter)

    def _measure(self, weight: float, tokens: Sequence[int], first: int) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return log_probs(self._active(weight), weight, tokens, first).cpu().numpy()

    def _active(self, weight: float) -> list[PreTrainedModel]:
        """The networks that take part; `weight` is that of the second."""
        shares = (1 - weight, weight)
        return [network for network, share in zip(self._networks, shares, strict=False) if share != 0]

    def _draw(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], draw: SamplingParams, weight: float
    ) -> list[Sample]:
        """One answer per prompt [R]. Finished rows leave the batch once they are half of it."""
        import torch

        device = self._networks[0].device
        rows, ends = len(seeds), torch.tensor(self._ends, device=device)
        uniforms = torch.from_numpy(np.stack([np.random.default_rng(one).random(draw.max_tokens) for one in seeds]))
        uniforms = uniforms.to(device)  # float64 [R, T]
        tokens = torch.zeros((rows, draw.max_tokens), dtype=torch.int64, device=device)  # [R, T]
        logps = torch.zeros((rows, draw.max_tokens), device=device)  # [R, T]
        with torch.inference_mode():
            batch = DecodingBatch(self._active(weight), weight, prompts)
            alive = torch.arange(rows, device=device)  # rows [A] still in the batch
            ended = torch.zeros(rows, dtype=torch.bool, device=device)
            lengths = torch.zeros(rows, dtype=torch.int64, device=device)  # [R], of finished answers; 0: not finished
            seen = _seen(prompts, batch.logits)  # bool [R, V]
            for step in range(draw.max_tokens):
                logits = penalised(batch.logits, seen[alive], draw.repetition_penalty)
                chosen = choose(logits, uniforms[alive, step], draw)  # [A]
                tokens[alive, step] = chosen
                seen[alive, chosen] = True
                logps[alive, step] = batch.logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
                ends_now = ~ended & (torch.isin(chosen, ends) | self._stops(tokens[alive, : step + 1], draw))
                lengths[alive[ends_now]] = step + 1
                ended |= ends_now
                left = int((~ended).sum())
                if left == 0 or step + 1 == draw.max_tokens:
                    break
                if left <= len(alive) // 2:
                    going = (~ended).nonzero()[:, 0]
                    alive, chosen, ended = (t[going] for t in (alive, chosen, ended))
                    batch.keep(going)
                batch.step(chosen)
        drawn = zip(tokens.int().cpu().numpy(), logps.cpu().numpy(), lengths.tolist(), strict=True)
        return [_sample(*one) for one in drawn]

    def _stops(self, tokens: Tensor, draw: SamplingParams) -> Tensor:
        """bool [A]: whether the last of tokens [A, T] completes a stop text. A token has at least one byte."""
        import torch

        if not draw.stop:
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        reach = max(len(text.encode()) for text in draw.stop) + TAIL
        texts = self._tokenizer.batch_decode(
            tokens[:, -reach:].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return torch.tensor([draw.ends(text) is not None for text in texts], device=tokens.device)


def _sample(tokens: np.ndarray, logps: np.ndarray, length: int) -> Sample:
    """An answer of `length` tokens; 0: it did not end, and has all of them."""
    end = length or len(tokens)
    return Sample(tokens[:end].copy(), logps[:end].copy(), truncated=not length)


def _seen(prompts: Sequence[tuple[int, ...]], logits: Tensor) -> Tensor:
    """bool [R, V]: the tokens in each prompt. `logits` [R, V] gives shape and device."""
    import torch

    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for row, prompt in enumerate(prompts):
        seen[row, list(prompt)] = True
    return seen


def penalised(logits: Tensor, seen: Tensor, penalty: float | None) -> Tensor:
    """logits [R, V]; those of seen tokens are divided by the penalty if positive, else multiplied (CTRL)."""
    if penalty is None or penalty == 1:
        return logits
    return logits.where(~seen, (logits / penalty).where(logits > 0, logits * penalty))


def choose(logits: Tensor, uniforms: Tensor, draw: SamplingParams) -> Tensor:
    """Tokens [R] from logits [R, V] and uniforms [R] in [0, 1). Order: temperature, min_p, top_k, top_p."""
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
        before = probs.cumsum(-1) - probs  # mass of more likely tokens
        probs = probs * (before < draw.top_p)
    cdf = probs.cumsum(-1)
    rank = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True).clamp(max=probs.shape[-1] - 1)  # [R, 1]
    return (rank if order is None else order.gather(-1, rank))[:, 0]
