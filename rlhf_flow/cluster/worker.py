"""The actor that holds one worker: an engine, a scorer or a learner rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_flow.cluster.heartbeat import start_beating
from rlhf_flow.cluster.supervisor import WorkerError, oom_kills
from rlhf_flow.cluster.weight_sync.transport import Transport, call_and_send
from rlhf_flow.sampler.source import streamed
from rlhf_flow.specs import Place
from rlhf_flow.system.gc_pause import gc_paused
from rlhf_flow.weights.offload import Offloadable

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class ProcessInfo(NamedTuple):
    node: str  # Ray's node id
    pid: int
    oom_kills: int  # of its machine, when the process was up


class Worker:
    """Runs calls on the worker that it opened, one at a time."""

    def __init__(self, name: str, monitor: ActorHandle) -> None:
        self.worker: Any = None
        self.failure: Exception | None = None
        self.opened = False
        start_beating(monitor, name, lambda: not self.opened)

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a free port, for the process group of the ranks."""
        import socket

        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def info(self) -> ProcessInfo:
        import ray

        return ProcessInfo(ray.get_runtime_context().get_node_id(), os.getpid(), oom_kills())

    def open(self, opener: Any, place: Place) -> None:
        try:
            with gc_paused():
                self.worker = opener(place)
            if place.shared and not isinstance(self.worker, Offloadable):
                raise ValueError(
                    f"cluster.layout=colocated: {type(self.worker).__name__} has no step_aside and come_back, so it "
                    "cannot offload its weights. Fix: cluster.layout=disaggregated."
                )
        except Exception as failure:  # the next call raises it, because the driver does not wait for `open`
            self.failure = failure
        finally:
            self.opened = True

    def ready(self) -> None:
        """Raise what `open` raised."""
        if self.failure is not None:
            raise self.failure
        if self.worker is None:  # Ray could not unpickle the arguments of `open`, and reports that only to a waiter
            raise WorkerError("a worker's spec could not be unpickled in its process. Fix: make its module importable.")

    def call(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self.ready()
        return getattr(self.worker, method)(*arguments, **named)

    def pieces(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Iterator[Any]:
        """Yield what a call returns; of an engine's `stream`, each piece as soon as it is finished."""
        self.ready()
        if method == "stream":
            yield from streamed(self.worker, *arguments, **named)
        else:
            yield getattr(self.worker, method)(*arguments, **named)

    def stream(self, method: str, arguments: tuple[Any, ...], transport: Transport, bucket: int) -> Iterator[Any]:
        """Yield what the transport returns for each bucket of published weights, then the answer of the call."""
        self.ready()
        answer = yield from call_and_send(self.worker, method, arguments, transport=transport, bucket=bucket)
        yield answer
