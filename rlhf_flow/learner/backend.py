"""What a learner asks of the machinery under it: one process, or ranks that share the work.

Everything that knows how gradients and weights are spread over ranks is behind this protocol; what is learned, in which
order, and what is written to disk is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlhf_flow.learner.batching import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Part:
    """The elements [start, start + n) of a flattened parameter, where they lie on this rank."""

    values: Tensor  # [n], a view: who writes to it writes the parameter
    start: int
    everywhere: bool  # whether every rank holds the whole parameter

    def write(self, whole: Tensor) -> None:
        self.values.copy_(whole.reshape(-1)[self.start : self.start + self.values.numel()])


@dataclass(frozen=True)
class Parameter:
    """One trained parameter of the Hugging Face model, as this rank sees it."""

    name: str
    shape: tuple[int, ...]
    seen: Part  # what the forward pass reads
    master: Part  # float32: what the optimizer steps
    owner: Tensor  # the tensor under which the optimizer knows `master`
    offset: int  # of `master` in `owner`

    def moment(self, state: Tensor) -> Part:
        """The part of a tensor that the optimizer keeps for `owner`."""
        values = state.view(-1).narrow(0, self.offset, self.master.values.numel())
        return Part(values, self.master.start, self.master.everywhere)


class Backend(Protocol):
    rank: int
    size: int
    lm: PreTrainedModel
    device: torch.device
    optimizer: torch.optim.Optimizer

    def parameters(self) -> Sequence[Parameter]:
        """All trained parameters, in the model's order, the same on all ranks. Good until the next forward pass."""
        ...

    def holders(self) -> Sequence[object]:
        """What holds every tensor that is on the device between two calls: modules, optimizers."""
        ...

    def logps(self, packed: Packed) -> Tensor:
        """Log-probs float32 [M] of the response tokens, or what else the model reads, row by row.

        With gradients where torch's grad mode is on.
        """
        ...

    def spread(self, packed: Packed) -> Tensor:
        """Of a policy, for each response token [M, 3]: its log-prob, entropy and mass of the likeliest tokens there."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of this rank's share of the loss; after the last share of a step, sum them over ranks."""
        ...

    def step(self, lr: float) -> float:
        """Clip, take an optimizer step, and return the gradient norm before clipping.

        Raises FloatingPointError, with the weights as they were, where the norm is not finite.
        """
        ...

    def discard(self, loss: Tensor) -> None:
        """Instead of the last `backward` and `step`: forget the gradients and leave the weights as they are."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, on the CPU."""
        ...

    def whole(self, parameter: Parameter, part: Part, *, to: int, into: Tensor | None = None) -> Tensor | None:
        """The whole of what every rank has a part of: on rank `to`, else None.

        Gathered into the memory of `into` where it is of the same kind, which is returned then.
        """
        ...

    def share(self, text: str) -> str:
        """What rank 0 says, on all ranks."""
        ...

    def close(self) -> None: ...
