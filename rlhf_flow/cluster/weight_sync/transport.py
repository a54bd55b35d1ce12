"""How weights get from the learner to engines, and to learners that start from them.

By nccl and by cuda_ipc the object store keeps them, too, for whoever comes later; but engines that are up get them
straight from the learner while it still holds them (`rlhf_flow.cluster.weight_sync.direct`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import uuid4

from rlhf_flow.cluster.weight_sync.object_store import ObjectStore
from rlhf_flow.cluster.weight_sync.shared_disk import SharedDisk
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import MIB, Bucket, Index
from rlhf_flow.weights.publish import DetachedWeights, Publishing, in_buckets, moved, tensors_of
from rlhf_flow.weights.source import InMemoryWeights, Weights

if TYPE_CHECKING:
    from ray import ObjectRef


class Transport(Protocol):
    """One for a run. The learner's first rank sends, and the driver receives."""

    def send(self, bucket: Bucket) -> object:
        """Put a bucket where it outlives this process; what is returned goes to the driver, and says where."""
        ...

    def receive(self, groups: Sequence[Index], sent: Sequence[ObjectRef]) -> Weights:
        """The weights whose buckets were sent, each with one of the groups."""
        ...

    def close(self) -> None:
        """Delete what is left."""
        ...


WAYS = ("object_store", "disk", "nccl", "cuda_ipc")


@dataclass(frozen=True)
class Transfer:
    """Where published weights are kept for as long as a policy is in use, and how engines get new ones."""

    # object_store: Ray's, in the memory of the nodes. disk: files that all nodes see. nccl and cuda_ipc: as
    # object_store, but engines that are up get them from the learner: where each has GPUs of its own, its first rank
    # broadcasts them, on CPUs by gloo; colocated, each rank shares memory of its GPU with the engine there, on CPUs
    # memory of the host (neither is measured on GPUs)
    by: str = "object_store"  # object_store, disk, nccl or cuda_ipc
    bucket_mib: int = 256  # of weights that are gathered, sent and loaded at once; a larger tensor goes alone
    folder: str | None = None  # disk: on a file system that all nodes share; null: a temporary one of this machine

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ValueError(f"cluster.transfer.by must be one of {', '.join(WAYS)}, got {self.by!r}")
        if self.bucket_mib < 1:
            raise ValueError(f"cluster.transfer.bucket_mib must be >= 1, got {self.bucket_mib}")
        if self.folder is not None and self.by != "disk":
            raise ValueError(
                f"cluster.transfer.folder is for cluster.transfer.by=disk, got {self.folder!r} with by={self.by}. "
                "Leave it out, or use by=disk."
            )

    @property
    def bucket(self) -> int:
        """Bytes."""
        return self.bucket_mib * MIB

    @property
    def express(self) -> bool:
        """Whether engines that are up get new weights from the learner itself."""
        return self.by == "nccl" or self.shares

    @property
    def shares(self) -> bool:
        """Whether learner and engine see the same memory then, so that both are at their GPU."""
        return self.by == "cuda_ipc"

    def check(self, *, local: bool) -> None:
        """`local`: whether all nodes are this machine. Raises ValueError where they do not share a folder."""
        if self.by == "disk" and self.folder is None and not local:
            raise ValueError(
                "cluster.transfer.folder must be set with cluster.transfer.by=disk on a cluster that was joined: "
                "its nodes share no temporary folder. Name a folder on a file system that all of them see."
            )

    def check_places(self, *, layout: str, alone: bool) -> None:
        """`alone`: whether each worker has GPUs of its own. Raises ValueError where they are not as they must be."""
        if self.by == "nccl" and not alone:
            raise ValueError(
                "cluster.transfer.by=nccl needs GPUs of its own for each worker: cluster.layout=disaggregated with "
                f"cluster.gpu_share >= 1, got cluster.layout={layout}. Set them so, or try "
                f"cluster.transfer.by={'object_store' if layout == 'disaggregated' else 'cuda_ipc'}."
            )
        if self.shares and layout != "colocated":
            raise ValueError(
                "cluster.transfer.by=cuda_ipc needs learner and engine on the same GPU: cluster.layout=colocated, got "
                f"{layout}. Set it so, or try cluster.transfer.by=nccl."
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
    """A learner that gathers its weights bucket by bucket."""

    def publishing(self, name: str, round: int) -> Publishing: ...

    def averaging(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Publishing: ...

    def buckets(self, sha256: str, device: str) -> Iterator[Bucket]:
        """The weights held, which have that name, once more; of other ranks than the first, room for them."""
        ...


@runtime_checkable
class Receives(Protocol):
    """An engine that can be given a policy before it is asked to draw from it."""

    def has(self, policy: Policy) -> bool:
        """Whether its weights are here already."""
        ...

    def take(self, policy: Policy) -> None:
        """Load its weights now, also while others are at work where it is. Before it is drawn from, it is proven."""
        ...


def told(worker: object, method: str, arguments: Sequence[Any], *, transport: Transport, bucket: int) -> Telling:
    """Call a method of a worker, and send the weights of the policy that it returns, if it does, bucket by bucket."""
    if isinstance(worker, Streams) and method in ("publish", "average"):
        streamed = worker.publishing if method == "publish" else worker.averaging
        return (yield from _sent(streamed(*arguments), transport))
    answer = getattr(worker, method)(*arguments)
    if isinstance(answer, Policy) and isinstance(tensors_of(answer.weights), InMemoryWeights):
        return (yield from _sent(in_buckets(answer, bucket), transport))
    return answer


Telling = Generator[object, None, Any]  # yields what `Transport.send` returns of each bucket, returns the answer


def _sent(publishing: Publishing, transport: Transport) -> Telling:
    while True:
        try:
            bucket = next(publishing)
        except StopIteration as end:
            return end.value
        yield transport.send(bucket)


def received(answer: object, sent: Sequence[ObjectRef], transport: Transport) -> object:
    """The answer of a worker; a policy with its weights where they were sent to."""
    if isinstance(answer, Policy) and isinstance(apart := tensors_of(answer.weights), DetachedWeights):
        return moved(answer, transport.receive(apart.groups, sent))
    return answer
