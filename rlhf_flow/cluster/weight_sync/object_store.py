"""Weights through Ray's object store: one object per bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.weights.buckets import Bucket, Index

if TYPE_CHECKING:
    from ray import ObjectRef
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """Weights in objects that the driver owns, so that they outlive the learner. One copy in, none out."""

    groups: tuple[Index, ...]  # the tensors in each bucket
    buckets: tuple[ObjectRef, ...]

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Read-only views of the object store's memory."""
        import ray

        for number, reference in enumerate(self.buckets):
            if following := list(self.buckets[number + 1 : number + 2]):
                ray.wait(following, timeout=0)  # starts to fetch it from another node
            bucket: Bucket = ray.get(reference)
            yield from bucket.tensors()

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())
