"""How published weights leave the learner: to engines by a broadcast, or to all workers through the object store."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.types import Policy
from rlhf_flow.weights.broadcast import Broadcast, Channel
from rlhf_flow.weights.buckets import MIB, Bucket
from rlhf_flow.weights.publish import DetachedWeights, Publishing, in_buckets, moved, tensors_of
from rlhf_flow.weights.source import InMemoryWeights

if TYPE_CHECKING:
    from ray import ObjectRef

WAYS = ("direct", "object_store")
Sending: TypeAlias = Generator[Bucket, None, Any]  # yields buckets for the object store, then returns the answer


@dataclass(frozen=True)
class Transfer:
    """How engines get published weights."""

    # direct: the learner broadcasts to vLLM's processes (NCCL between GPUs, gloo between CPUs), and a copy goes through
    # the object store only if it is needed. object_store: always. Other engines, adapters and layout=colocated use it
    by: str = "direct"  # direct | object_store
    bucket_mib: int = (
        256  # weights that are gathered, sent and loaded at once; a larger tensor gets a bucket of its own
    )

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ValueError(
                f"cluster.transfer.by={self.by}: there is no such transport (nccl, cuda_ipc and disk were removed in "
                "0.2). Fix: cluster.transfer.by=direct (a broadcast) or object_store (Ray's object store)."
            )
        if self.bucket_mib < 1:
            raise ValueError(f"cluster.transfer.bucket_mib must be >= 1, got {self.bucket_mib}")

    @property
    def bucket(self) -> int:
        """Bytes."""
        return self.bucket_mib * MIB


@runtime_checkable
class Streams(Protocol):
    """A learner that publishes bucket by bucket."""

    def publishing(self, name: str, round: int) -> Publishing: ...

    def averaging(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Publishing: ...


@runtime_checkable
class Broadcasts(Protocol):
    """A learner whose weights can be broadcast."""

    def publishing_files(self, name: str, round: int) -> Publishing: ...


class Sender:
    """Rank 0's end of a channel to engines, kept from one publish to the next."""

    def __init__(self) -> None:
        self._id = ""
        self._opened: Broadcast | None = None

    def send(self, publishing: Publishing, channel: Channel) -> Policy:
        """Publish to the channel. Without its receivers the policy is published too, with `sent=False`."""
        policies: list[Policy] = []

        def passed() -> Iterator[Bucket]:
            policies.append((yield from publishing))

        buckets, sent = passed(), True
        try:
            self._join(channel).send(buckets)
        except (RuntimeError, OSError) as failure:  # a receiver is lost, or the weights could not be gathered
            print(f"warning: weights were not sent to the engines: {failure}", flush=True)
            self._opened, sent = None, False
        for _ in buckets:  # the other ranks gather with this one
            pass
        (policy,) = policies
        assert isinstance(policy.weights, DetachedWeights)
        return moved(policy, replace(policy.weights, sent=sent))

    def _join(self, channel: Channel) -> Broadcast:
        if self._opened is None or channel.id != self._id:
            if self._opened is not None:
                self._opened.close()
            self._opened, self._id = channel.open(), channel.id
        return self._opened


def call_and_send(
    worker: object, method: str, arguments: Sequence[Any], *, channel: Channel | None, bucket: int, sender: Sender
) -> Sending:
    """Call a method of a worker. If it returns a policy whose weights are in memory, send them in buckets.

    They go to the receivers of `channel`; without one, the driver gets a reference to each bucket.
    """
    if channel is not None:
        assert isinstance(worker, Broadcasts), f"{type(worker).__name__} does not broadcast"
        return sender.send(worker.publishing_files(*arguments), channel)
    if isinstance(worker, Streams) and method in ("publish", "average"):
        publish = worker.publishing if method == "publish" else worker.averaging
        return (yield from publish(*arguments))
    answer = getattr(worker, method)(*arguments)
    if isinstance(answer, Policy) and isinstance(tensors_of(answer.weights), InMemoryWeights):
        return (yield from in_buckets(answer, bucket))
    return answer


def received(answer: object, sent: Sequence[ObjectRef]) -> object:
    """The answer of a call. A policy gets the weights that were sent to the driver."""
    if sent and isinstance(answer, Policy) and isinstance(detached := tensors_of(answer.weights), DetachedWeights):
        return moved(answer, Stored(detached.groups, tuple(sent)))
    return answer
