"""A policy on its way out of a learner: its weights bucket by bucket, and then the policy itself."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Bucket, Index, fill, pack, reader
from rlhf_flow.weights.source import Adapter, InMemoryWeights, Weights

if TYPE_CHECKING:
    from torch import Tensor

# Yields buckets, each good until the next one is asked for; returns the policy, whose weights are `DetachedWeights`.
Publishing: TypeAlias = Generator[Bucket, None, Policy]


@dataclass(frozen=True)
class DetachedWeights:
    """Weights that travel beside their policy."""

    groups: tuple[Index, ...]  # what is in each bucket

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        raise AssertionError("whoever asked for the policy has its weights")

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())


def in_buckets(policy: Policy, limit: int) -> Publishing:
    """A policy whose weights are in the memory of this process."""
    tensors = tensors_of(policy.weights)
    groups = tuple(pack(tensors.index(), limit))
    yield from fill(groups, reader(tensors.stream()))
    return moved(policy, DetachedWeights(groups))


def held(publishing: Publishing) -> Policy:
    """The policy, with its weights in the memory of this process."""
    state: dict[str, Tensor] = {}
    while True:
        try:
            bucket = next(publishing)
        except StopIteration as end:
            return moved(end.value, InMemoryWeights(state))
        state |= {name: tensor.clone() for name, tensor in bucket.tensors()}


def tensors_of(weights: Weights) -> Weights:
    """What of them is published: of an adapter, its own."""
    return weights.tensors if isinstance(weights, Adapter) else weights


def moved(policy: Policy, tensors: Weights) -> Policy:
    """The policy, with what of it is published elsewhere."""
    weights = policy.weights
    return replace(policy, weights=replace(weights, tensors=tensors) if isinstance(weights, Adapter) else tensors)
