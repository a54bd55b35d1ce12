"""Weights through Ray's object store: each bucket is an object, which the driver owns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.weights.buckets import Bucket, Index

if TYPE_CHECKING:
    from ray import ObjectRef
    from torch import Tensor


@dataclass(frozen=True)
class ObjectStore:
    """What a task yields belongs to whoever called it, and so outlives the learner. One copy in, none out."""

    def send(self, bucket: Bucket) -> Bucket:
        return bucket

    def receive(self, groups: Sequence[Index], sent: Sequence[ObjectRef]) -> Stored:
        return Stored(tuple(groups), tuple(sent))

    def close(self) -> None:
        """Ray frees what is no longer named."""


@dataclass(frozen=True)
class Stored:
    """Weights in Ray's object store."""

    groups: tuple[Index, ...]  # what is in each bucket
    buckets: tuple[ObjectRef, ...]

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Views of the store's own memory, read-only."""
        import ray

        for number, reference in enumerate(self.buckets):
            if following := list(self.buckets[number + 1 : number + 2]):
                ray.wait(following, timeout=0)  # begins to fetch it, where it is on another node
            bucket: Bucket = ray.get(reference)
            yield from bucket.tensors()

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())
