"""A pool of replicas. Each call goes to a free replica; if the replica dies, the call is retried on another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_flow.cluster.gpu_sharing import GpuSlot
from rlhf_flow.cluster.heartbeat import BEAT_SECONDS
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup, silence
from rlhf_flow.system.cancellation import check_cancelled

if TYPE_CHECKING:
    from ray import ObjectRefGenerator


@dataclass
class Call:
    """A method call whose answer does not depend on the replica."""

    method: str
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A piece of a call's answer."""

    value: Any


class End:
    """The call has answered."""


Running: TypeAlias = "dict[ObjectRefGenerator, tuple[WorkerGroup, int]]"  # the number of the call


@dataclass
class Pool:
    """Replicas of one worker, each a group of one process."""

    slot: GpuSlot
    supervisor: Supervisor

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of calls that have one piece each, in the order of the calls."""
        answers = dict(self.stream(calls, rest=lambda number: calls[number]))
        return [answers[number] for number in range(len(calls))]

    def stream(self, calls: Sequence[Call], rest: Callable[[int], Call]) -> Iterator[tuple[int, Any]]:
        """Yield the pieces of the answers, each with the number of its call, in the order in which they arrive.

        A replica that died is started again. `rest(number)` is what its call has not answered yet, and the next one to
        be handed out. Raises what a call raised, WorkerError after too many deaths, and StoppedError if the caller
        cancelled.
        """
        self.slot.acquire()
        waiting, idle = deque(enumerate(calls)), deque(self.groups)
        running: Running = {}
        while waiting or running:
            check_cancelled()
            while waiting and idle:
                group = idle.popleft()
                if not self._is_up(group):
                    idle.append(group)
                    continue
                number, call = waiting.popleft()
                running[group.pieces(call.method, call.arguments, call.named)] = group, number
            for begun, event in self._arrived(running):
                group, number = running[begun]
                if isinstance(event, Piece):
                    yield number, event.value
                    continue
                del running[begun]
                idle.append(group)
                if isinstance(event, DeadWorkerError):
                    self._drop(group, event)
                    waiting.appendleft((number, rest(number)))

    @property
    def groups(self) -> list[WorkerGroup]:
        return self.slot.groups

    def stop(self) -> None:
        for group in self.groups:
            group.stop()

    @property
    def stopped(self) -> bool:
        return not any(group.ranks for group in self.groups)

    def _arrived(self, running: Running) -> list[tuple[ObjectRefGenerator, Piece | End | DeadWorkerError]]:
        """What happened to some of the calls. Replicas that hang are killed if nothing happens for a while."""
        import ray

        ready: list[ObjectRefGenerator]
        ready, _ = ray.wait(list(running), num_returns=1, timeout=BEAT_SECONDS)
        if ready:
            ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            return [(begun, _next(begun, running[begun][0])) for begun in ready]
        silent = silence(self.groups[0].monitor)  # all groups share the monitor
        hanging = ((begun, _hangs(group, silent)) for begun, (group, _) in running.items())
        return [(begun, death) for begun, death in hanging if death is not None]

    def _is_up(self, group: WorkerGroup) -> bool:
        """Start a stopped group. False if it died as it started."""
        try:
            if not group.ranks:
                group.start()
        except DeadWorkerError as death:
            self._drop(group, death)
        return bool(group.ranks)

    def _drop(self, group: WorkerGroup, death: DeadWorkerError) -> None:
        self.supervisor.record(death)
        group.stop()


def _next(begun: ObjectRefGenerator, group: WorkerGroup) -> Piece | End | DeadWorkerError:
    """Raises what the call raised."""
    try:
        group.locate()
        return Piece(group.get(next(begun), 0))
    except StopIteration:
        return End()
    except DeadWorkerError as death:
        return death


def _hangs(group: WorkerGroup, silent: Mapping[str, float]) -> DeadWorkerError | None:
    try:
        group.check_heartbeats(silent)
    except DeadWorkerError as death:
        return death
    return None
