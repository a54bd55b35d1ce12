"""The actor that holds one worker: an engine, a scorer or a learner rank."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_flow.cluster.failures import fatal_failures
from rlhf_flow.cluster.heartbeat import start_beating
from rlhf_flow.cluster.inbox import Inbox
from rlhf_flow.cluster.supervisor import WorkerError, oom_kills
from rlhf_flow.cluster.weight_sync.transport import Sender, call_and_send
from rlhf_flow.engine.feed import FedEngine
from rlhf_flow.sampler.source import streamed
from rlhf_flow.specs import Place
from rlhf_flow.system.gc_pause import gc_paused
from rlhf_flow.system.rendezvous import free_port
from rlhf_flow.types import Prompt, Rollouts
from rlhf_flow.weights.broadcast import Channel
from rlhf_flow.weights.offload import Discards, Offloadable

if TYPE_CHECKING:
    from ray.actor import ActorHandle


FEED = "feed"  # Ray's concurrency group of `Worker.add`


class ProcessInfo(NamedTuple):
    node: str  # Ray's node id
    pid: int
    oom_kills: int  # of its machine, when the process was up


class Worker:
    """Runs calls on the worker that it opened, one at a time.

    A call raises what the worker raises, or BrokenWorkerError, after which the driver ends this process.
    """

    def __init__(self, name: str, monitor: ActorHandle) -> None:
        self.worker: Any = None
        self.failure: Exception | None = None
        self.inboxes: dict[str, Inbox] = {}  # of calls of `feed`, by id
        self.sender = Sender()  # of a learner's rank 0
        self.opened = False
        start_beating(monitor, name, lambda: not self.opened)

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a free port, for the process group of the ranks."""
        import ray

        return ray.util.get_node_ip_address(), free_port("")

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

    @fatal_failures()
    def ready(self) -> None:
        """Raise what `open` raised."""
        if self.failure is not None:
            raise self.failure
        if self.worker is None:  # Ray could not unpickle the arguments of `open`, and reports that only to a waiter
            raise WorkerError("a worker's spec could not be unpickled in its process. Fix: make its module importable.")

    @fatal_failures()
    def call(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self.ready()
        return getattr(self.worker, method)(*arguments, **named)

    def follow(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Take part in a call whose answer rank 0 gives."""
        self.call(method, arguments, {})

    @fatal_failures()
    def leave(self, replaced: bool) -> None:
        """Leave the GPU to others. An engine keeps no copy of weights that will be `replaced`."""
        self.ready()
        if replaced and isinstance(self.worker, Discards):
            self.worker.discard()
        else:
            self.worker.step_aside()

    def pieces(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Iterator[Any]:
        """Yield what a call returns."""
        yield self.call(method, arguments, named)

    def slots(self) -> int:
        """The answers that the engine generates at a time."""
        self.ready()
        return self.worker.slots if isinstance(self.worker, FedEngine) else sys.maxsize

    def feed(self, id: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Iterator[Rollouts]:
        """Yield an engine's answers to the prompts that `add` brings, each piece as soon as it is finished."""
        self.ready()
        take = self.inboxes.setdefault(id, Inbox())
        with fatal_failures():
            if isinstance(self.worker, FedEngine):
                yield from self.worker.feed(take, *arguments, **named)
            else:
                while (prompts := take(wait=True)) is not None:
                    yield from streamed(self.worker, prompts, *arguments, **named)
        del self.inboxes[id]

    def add(self, id: str, arrived: Sequence[Prompt] | int) -> None:
        """Prompts for `feed`, or how many it gets in all. Runs beside it, in the thread of the group `FEED`."""
        self.inboxes.setdefault(id, Inbox()).put(arrived)

    def stream(self, method: str, arguments: tuple[Any, ...], channel: Channel | None, bucket: int) -> Iterator[Any]:
        """Yield each bucket of published weights, unless they go to the channel; then the answer of the call."""
        self.ready()
        with fatal_failures():
            yield (
                yield from call_and_send(
                    self.worker, method, arguments, channel=channel, bucket=bucket, sender=self.sender
                )
            )
