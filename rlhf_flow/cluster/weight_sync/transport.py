"""Transports: how weights get from the learner to engines, and to learners that start from them."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from uuid import uuid4

from rlhf_flow.cluster.weight_sync.object_store import ObjectStore
from rlhf_flow.cluster.weight_sync.shared_disk import SharedDisk
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import MIB, Bucket, Index
from rlhf_flow.weights.publish import DetachedWeights, Publishing, in_buckets, moved, tensors_of
from rlhf_flow.weights.source import InMemoryWeights, Weights

if TYPE_CHECKING:
    from ray import ObjectRef

WAYS = ("object_store", "disk")
Sending: TypeAlias = Generator[object, None, Any]  # yields what `Transport.send` returns, then returns the answer


class Transport(Protocol):
    """Rank 0 of the learner sends, the driver receives. A run has one transport."""

    def send(self, bucket: Bucket) -> object:
        """Store a bucket so that it outlives this process. The result is sent to the driver."""
        ...

    def receive(self, groups: Sequence[Index], sent: Sequence[ObjectRef]) -> Weights:
        """The weights whose buckets were sent; `groups` are the tensors in each bucket."""
        ...

    def close(self) -> None:
        """Delete all stored buckets."""
        ...


@dataclass(frozen=True)
class Transfer:
    """Where published weights are kept while a policy is in use, and how engines get them."""

    # object_store: Ray's, in the memory of the nodes. disk: files in a folder that all nodes share
    by: str = "object_store"  # object_store or disk
    bucket_mib: int = (
        256  # weights that are gathered, sent and loaded at once; a larger tensor gets a bucket of its own
    )
    folder: str | None = None  # disk: on a file system that all nodes share; null: a temporary folder of this machine

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ValueError(
                f"cluster.transfer.by={self.by}: there is no such transport (nccl and cuda_ipc were removed in 0.2). "
                "Fix: cluster.transfer.by=object_store (Ray's object store) or disk (files that all nodes share)."
            )
        if self.bucket_mib < 1:
            raise ValueError(f"cluster.transfer.bucket_mib must be >= 1, got {self.bucket_mib}")
        if self.folder is not None and self.by != "disk":
            raise ValueError(
                f"cluster.transfer.folder={self.folder}: only cluster.transfer.by=disk has a folder, got "
                f"by={self.by}. Fix: leave it out, or set by=disk."
            )

    @property
    def bucket(self) -> int:
        """Bytes."""
        return self.bucket_mib * MIB

    def check(self, *, local: bool) -> None:
        """Raise ValueError if nodes share no folder. `local`: all nodes are this machine."""
        if self.by == "disk" and self.folder is None and not local:
            raise ValueError(
                "cluster.transfer.by=disk: the nodes of a joined cluster share no temporary folder. Fix: set "
                "cluster.transfer.folder to a folder on a file system that all of them see."
            )

    def open(self) -> Transport:
        if self.by != "disk":
            return ObjectStore()
        if self.folder is None:
            return SharedDisk(Path(tempfile.mkdtemp(prefix="rlhf-flow-weights-")))
        folder = Path(self.folder).resolve() / f"rlhf-flow-weights-{uuid4().hex}"
        folder.mkdir(parents=True)
        return SharedDisk(folder)


@runtime_checkable
class Streams(Protocol):
    """A learner that publishes bucket by bucket."""

    def publishing(self, name: str, round: int) -> Publishing: ...

    def averaging(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Publishing: ...


def call_and_send(
    worker: object, method: str, arguments: Sequence[Any], *, transport: Transport, bucket: int
) -> Sending:
    """Call a method of a worker. If it returns a policy whose weights are in memory, send them in buckets."""
    if isinstance(worker, Streams) and method in ("publish", "average"):
        publish = worker.publishing if method == "publish" else worker.averaging
        return (yield from _send(publish(*arguments), transport))
    answer = getattr(worker, method)(*arguments)
    if isinstance(answer, Policy) and isinstance(tensors_of(answer.weights), InMemoryWeights):
        return (yield from _send(in_buckets(answer, bucket), transport))
    return answer


def _send(publishing: Publishing, transport: Transport) -> Sending:
    while True:
        try:
            bucket = next(publishing)
        except StopIteration as end:
            return end.value
        yield transport.send(bucket)


def received(answer: object, sent: Sequence[ObjectRef], transport: Transport) -> object:
    """The answer of a call. A policy gets the weights that were sent."""
    if isinstance(answer, Policy) and isinstance(detached := tensors_of(answer.weights), DetachedWeights):
        return moved(answer, transport.receive(detached.groups, sent))
    return answer
