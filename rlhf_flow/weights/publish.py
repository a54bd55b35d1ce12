"""Publishing: a learner yields the weights of a policy bucket by bucket, then returns the policy."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Bucket, Index, fill, pack, reader
from rlhf_flow.weights.source import Adapter, InMemoryWeights, Weights

if TYPE_CHECKING:
    from torch import Tensor

# Yields buckets, each valid until the next one; returns the policy with `DetachedWeights`.
Publishing: TypeAlias = Generator[Bucket, None, Policy]


@dataclass(frozen=True)
class DetachedWeights:
    """Placeholder for weights that are sent separately from their policy."""

    groups: tuple[Index, ...]  # what is in each bucket
    sent: bool = False  # to engines, straight from the learner

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        raise AssertionError("these weights were sent separately from their policy")

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())


class HeldByLearner:
    """Published weights that only the learner has, and the engines to which it sent them.

    Other workers get a copy, which the learner makes when it is asked for the first time.
    """

    def __init__(self, groups: tuple[Index, ...], copied: Callable[[], Weights]) -> None:
        self._detached = DetachedWeights(groups, sent=True)
        self._copied = copied
        self._copy: Weights | None = None

    def index(self) -> Index:
        return self._detached.index()

    def copy(self) -> Weights:
        """Weights that every worker can load."""
        if self._copy is None:
            self._copy = self._copied()
        return self._copy

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        return self.copy().stream()

    def load(self) -> dict[str, Tensor]:
        return self.copy().load()

    def __reduce__(self) -> tuple[Callable[[Weights], Weights], tuple[Weights]]:
        """Another process gets the copy if there is one, else a placeholder."""
        return _itself, (self._copy or self._detached,)


def copied(policy: Policy) -> Policy:
    """The policy with weights that every worker can load."""
    return replace(policy, weights=policy.weights.copy()) if isinstance(policy.weights, HeldByLearner) else policy


def _itself(weights: Weights) -> Weights:
    return weights


def in_buckets(policy: Policy, limit: int) -> Publishing:
    """Publish a policy whose weights are in the memory of this process."""
    tensors = tensors_of(policy.weights)
    groups = tuple(pack(tensors.index(), limit))
    yield from fill(groups, reader(tensors.stream()))
    return moved(policy, DetachedWeights(groups))


def held(publishing: Publishing) -> Policy:
    """The published policy, with its weights in the memory of this process."""
    state: dict[str, Tensor] = {}
    while True:
        try:
            bucket = next(publishing)
        except StopIteration as end:
            return moved(end.value, InMemoryWeights(state))
        state |= {name: tensor.clone() for name, tensor in bucket.tensors()}


def tensors_of(weights: Weights) -> Weights:
    """The published tensors: of an adapter, its own only."""
    return weights.tensors if isinstance(weights, Adapter) else weights


def moved(policy: Policy, tensors: Weights) -> Policy:
    """The policy with `tensors` in place of its published tensors."""
    weights = policy.weights
    return replace(policy, weights=replace(weights, tensors=tensors) if isinstance(weights, Adapter) else tensors)
