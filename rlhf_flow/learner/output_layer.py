"""The output layer of a policy, `chunk` tokens at a time: the logits of all tokens never exist at once.

Imported only when a learner opens, so it may import torch at its top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from rlhf_flow.learner.logits import Reader, log_sum, token_logps


@dataclass(frozen=True)
class AfterLogits:
    """What some architectures do to their logits."""

    scale: float = 1.0  # Cohere, Granite
    cap: float | None = None  # c tanh(logits / c): Gemma 2

    @classmethod
    def of(cls, config: PreTrainedConfig) -> AfterLogits:
        keys = config.to_dict()
        scale = (keys.get("logit_scale") or 1.0) / (keys.get("logits_scaling") or 1.0)
        return cls(scale, keys.get("final_logit_softcapping"))

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Hidden states [M, H], weight [V, H] -> [M, V] in float32, or in float64 if they are."""
        logits = functional.linear(hidden, weight, bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


class OutputLayer(nn.Module):
    """It registers the layer's weight, so that ZeRO-3 gathers it once per pass instead of once per chunk."""

    def __init__(self, lm: PreTrainedModel, *, chunk: int) -> None:
        super().__init__()
        output = lm.get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise ValueError(f"model.path: {type(lm).__name__} has no linear output layer: not a causal LM")
        self.weight, self.bias = output.weight, output.bias
        self.chunk, self.after = chunk, AfterLogits.of(lm.config.get_text_config())

    def forward(self, hidden: Tensor, targets: Tensor, read: Reader) -> Tensor:
        """Hidden states [M, H], targets [M] -> the output of `read`, float32 [M, ...].

        Only log-probs have a gradient.
        """
        if read is token_logps:
            kind, dtype = hidden.device.type, self.weight.dtype
            if torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)
            bias = None if self.bias is None else self.bias.to(dtype)
            logps: Tensor = _TargetLogps.apply(
                hidden.to(dtype), self.weight.to(dtype), bias, targets, self.chunk, self.after
            )
            return logps
        pieces = zip(hidden.split(self.chunk), targets.split(self.chunk), strict=True)
        return torch.cat([read(self.after.logits(h, self.weight, self.bias), t) for h, t in pieces])


class _TargetLogps(torch.autograd.Function):
    """log softmax(z)_y of each token, with z = h W' + b and y its target; chunk by chunk, with one buffer of logits.

    The backward pass turns the logits in place into d log p / dz = onehot(y) - softmax(z), times the token's incoming
    gradient. It computes them again unless there was only one chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch has no type for it
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        after: AfterLogits,
    ) -> Tensor:
        logps, sums, ctx.logits = [], [], None
        keeps = len(targets) <= chunk and any(ctx.needs_input_grad)
        for part in _parts(len(targets), chunk):
            logits = after.logits(hidden[part], weight, bias)
            sums.append(log_sum(logits))
            logps.append(logits.gather(1, targets[part, None])[:, 0] - sums[-1])
            ctx.logits = logits if keeps else None
            del logits  # before those of the next chunk
        if not logps:
            return hidden.new_zeros(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(sums))
        ctx.chunk, ctx.after = chunk, after
        return torch.cat(logps)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # of torch
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if not ctx.saved_tensors:
            return (None,) * 6
        hidden, weight, bias, targets, sums = ctx.saved_tensors
        after, found = ctx.after, _Gradients(*ctx.needs_input_grad[:3])
        for part in _parts(len(targets), ctx.chunk):
            logits = after.logits(hidden[part], weight, bias) if ctx.logits is None else ctx.logits
            ctx.logits = None  # changed in place now: another backward pass computes them again
            slope = None if after.cap is None else (1 - (logits / after.cap).square()) * after.scale
            local = logits.sub_(sums[part, None]).exp_().mul_(-gradient[part, None])
            local.scatter_add_(1, targets[part, None], gradient[part, None])
            if slope is not None:
                local *= slope
            elif after.scale != 1:
                local *= after.scale
            found.add(local.to(weight.dtype), hidden[part], weight)
            del logits, local, slope  # before those of the next chunk
        return torch.cat(found.hidden) if found.hidden else None, found.weight, found.bias, None, None, None


class _Gradients:
    """Of hidden states, weight and bias, if wanted. What several chunks add to is summed in float32."""

    def __init__(self, hidden: bool, weight: bool, bias: bool) -> None:
        self.wants_hidden, self.wants_weight, self.wants_bias = hidden, weight, bias
        self.hidden: list[Tensor] = []
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def add(self, local: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """`local` [M, V]: gradients of the logits."""
        if self.wants_hidden:
            self.hidden.append(local @ weight)
        if self.wants_weight:
            self.weight = _sum(self.weight, local.T @ hidden)
        if self.wants_bias:
            self.bias = _sum(self.bias, local.sum(0))


def _sum(sum: Tensor | None, term: Tensor) -> Tensor:
    return term if sum is None else sum.to(torch.promote_types(sum.dtype, torch.float32)).add_(term)


def _parts(tokens: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk))
