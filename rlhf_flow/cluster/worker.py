"""The process of one worker on a Ray cluster: what it holds, and what it does when it is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_flow.cluster.heartbeat import start_beating
from rlhf_flow.cluster.supervisor import WorkerError, oom_kills
from rlhf_flow.cluster.weight_sync.broadcast import send
from rlhf_flow.cluster.weight_sync.channels import Channel
from rlhf_flow.cluster.weight_sync.transport import Receives, Streams, Transport, told
from rlhf_flow.specs import Place
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Index
from rlhf_flow.weights.offload import Offloadable

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class ProcessInfo(NamedTuple):
    """Where a process is, and what its machine had seen when it was up."""

    node: str  # Ray's id of its node
    pid: int
    oom_kills: int


class Worker:
    """The process of one worker. It runs what it is told on what it holds, one call at a time."""

    def __init__(self, name: str, pulse: ActorHandle) -> None:
        self.worker: Any = None
        self.failure: Exception | None = None
        start_beating(pulse, name)

    def meeting_point(self) -> tuple[str, int]:
        """This node's address and a free port on it, where ranks can meet."""
        import socket

        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def whereabouts(self) -> ProcessInfo:
        import ray

        return ProcessInfo(ray.get_runtime_context().get_node_id(), os.getpid(), oom_kills())

    def open(self, opener: Any, place: Place) -> None:
        try:
            self.worker = opener(place)
            if place.shared and not isinstance(self.worker, Offloadable):
                raise ValueError(
                    f"cluster.layout=colocated needs workers that can leave their GPU to others, and "
                    f"{type(self.worker).__name__} has no step_aside and come_back. Try cluster.layout=disaggregated."
                )
        except Exception as failure:  # told to whoever calls first: `open` itself is not waited for
            self.failure = failure

    def ready(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.worker is None:  # Ray could not even hand over what opens it, and tells nobody who does not wait
            raise WorkerError(
                "a worker's specification could not be read in its process. Is its module importable there?"
            )

    def call(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self.ready()
        return getattr(self.worker, method)(*arguments, **named)

    def tell(self, method: str, arguments: tuple[Any, ...], transport: Transport, bucket: int) -> Iterator[Any]:
        """What was sent of the weights of a policy, bucket by bucket, and then the answer."""
        self.ready()
        answer = yield from told(self.worker, method, arguments, transport=transport, bucket=bucket)
        yield answer

    def lacks(self, policy: Policy) -> bool:
        """Whether an engine could take a policy that it does not have."""
        self.ready()
        return isinstance(self.worker, Receives) and not self.worker.has(policy)

    def give(self, sha256: str, groups: Sequence[Index], lines: Sequence[Channel], device: str) -> None:
        """Pass on the weights that the learner holds, by these lines."""
        self.ready()
        assert isinstance(self.worker, Streams), "whatever publishes bucket by bucket"
        send(self.worker.buckets(sha256, device), groups, lines)
