"""The protocol between the learner and what runs it: one torch process, or the ranks of a DeepSpeed engine.

A backend knows how weights and gradients are spread over ranks. It knows neither the loss nor the files on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from rlhf_flow.learner.batching import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Part:
    """The elements [start, start + n) of a flattened parameter that are on this rank."""

    values: Tensor  # [n], a view of the parameter
    start: int
    everywhere: bool  # whether every rank has the whole parameter

    def write(self, whole: Tensor) -> None:
        self.values.copy_(whole.reshape(-1)[self.start : self.start + self.values.numel()])


@dataclass(frozen=True)
class Parameter:
    """One trained parameter of the Hugging Face model, as this rank sees it."""

    name: str
    shape: tuple[int, ...]
    seen: Part  # what the forward pass reads
    master: Part  # float32, what the optimizer updates
    owner: Tensor  # the key of `master` in the optimizer's state
    offset: int  # of `master` in `owner`

    def moment(self, state: Tensor) -> Part:
        """This parameter's part of a tensor in the optimizer's state of `owner`."""
        from torch.distributed.tensor import DTensor

        local = state.to_local() if isinstance(state, DTensor) else state  # FSDP's have a part on each rank
        values = local.view(-1).narrow(0, self.offset, self.master.values.numel())
        return Part(values, self.master.start, self.master.everywhere)


class Backend(Protocol):
    rank: int
    size: int
    replica: int  # of the ranks that share every forward pass
    replicas: int
    lm: PreTrainedModel
    device: torch.device
    reads: torch.dtype  # to which a forward pass rounds the weights
    optimizer: torch.optim.Optimizer

    def parameters(self) -> Sequence[Parameter]:
        """The trained parameters in the model's order, the same on all ranks. Valid until the next forward pass."""
        ...

    def frozen(self) -> Mapping[str, Part]:
        """By name, this rank's part of each parameter that is not trained and came without weights."""
        ...

    def logps(self, packed: Packed) -> Tensor:
        """Log-probs float32 [M] of the response tokens, row by row; of a reward model, its outputs."""
        ...

    def spread(self, packed: Packed) -> Tensor:
        """[M, 4] per response token of a policy: `rlhf_flow.learner.logits.spread`."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate the gradients of this rank's share of the loss; if `last`, sum them over ranks."""
        ...

    def step(self, lr: float) -> float:
        """Clip the gradients, take an optimizer step, and return the gradient norm before clipping.

        Raises FloatingPointError, without changing the weights, if the norm is not finite.
        """
        ...

    def discard(self, loss: Tensor) -> None:
        """Drop the gradients, in place of the last `backward` and `step`."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, on the CPU."""
        ...

    def whole(self, parameter: Parameter, part: Part, *, to: int) -> Tensor | None:
        """The whole parameter, gathered from the parts of all ranks, on rank `to`; None on the others."""
        ...

    def gather(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        """The whole parameters in `dtype`, on every rank: one collective for all of them.

        A tensor that every rank has already is no copy, if it has that dtype.
        """
        ...

    def union(self, items: Mapping[K, V]) -> dict[K, V]:
        """The items of all ranks. Collective."""
        ...

    def offload(self) -> None:
        """Move weights, gradients and optimizer state to host memory. Idempotent."""
        ...

    def reload(self) -> None:
        """Undo `offload`, bit for bit. Idempotent."""
        ...

    def close(self) -> None: ...
