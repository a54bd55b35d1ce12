"""A pool of replicas. Each call goes to a free replica; if the replica dies, the call is retried on another."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import RLock
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


Event: TypeAlias = "Piece | End | DeadWorkerError"


@dataclass
class Pool:
    """Replicas of one worker, each a group of one process."""

    slot: GpuSlot
    supervisor: Supervisor
    slots: int = 0  # answers that an engine generates at a time; 0: not known yet
    # Held while an engine generates, and while the learner sends weights to it.
    busy: AbstractContextManager[object] = field(default_factory=RLock)

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of the calls, in their order. A call whose replica died is repeated on another one.

        Raises what a call raised, WorkerError after too many deaths, and StoppedError if the caller cancelled.
        """
        self.slot.acquire()
        waiting, answers = deque(enumerate(calls)), dict[int, Any]()
        running: dict[ObjectRefGenerator, tuple[WorkerGroup, int]] = {}
        while waiting or running:
            check_cancelled()
            busy = {id(group) for group, _ in running.values()}
            for group in self.groups:
                if waiting and id(group) not in busy and self.is_up(group):
                    number, call = waiting.popleft()
                    running[group.pieces(call.method, call.arguments, call.named)] = group, number
            for begun, event in self.arrived({begun: group for begun, (group, _) in running.items()}):
                group, number = running[begun]
                if isinstance(event, Piece):
                    answers[number] = event.value
                    continue
                del running[begun]
                if isinstance(event, DeadWorkerError):
                    self.drop(group, event)
                    if number not in answers:
                        waiting.appendleft((number, calls[number]))
        return [answers[number] for number in range(len(calls))]

    @property
    def groups(self) -> list[WorkerGroup]:
        return self.slot.groups

    def stop(self) -> None:
        for group in self.groups:
            group.stop()

    @property
    def stopped(self) -> bool:
        return not any(group.ranks for group in self.groups)

    def arrived(self, running: Mapping[ObjectRefGenerator, WorkerGroup]) -> list[tuple[ObjectRefGenerator, Event]]:
        """What happened to some of the calls. Replicas that hang are killed if nothing happens for a while."""
        import ray

        if not running:  # all replicas died as they started
            return []
        ready: list[ObjectRefGenerator]
        ready, _ = ray.wait(list(running), num_returns=1, timeout=BEAT_SECONDS)
        if ready:
            ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            return [(begun, _next(begun, running[begun])) for begun in ready]
        silent = silence(self.groups[0].monitor)  # all groups share the monitor
        hanging = ((begun, _hangs(group, silent)) for begun, group in running.items())
        return [(begun, death) for begun, death in hanging if death is not None]

    def is_up(self, group: WorkerGroup) -> bool:
        """Start a stopped group. False if it died as it started."""
        try:
            if not group.ranks:
                group.start()
        except DeadWorkerError as death:
            self.drop(group, death)
        return bool(group.ranks)

    def drop(self, group: WorkerGroup, death: DeadWorkerError) -> None:
        """Record a death. The replica is started again at its next call."""
        group.stop()
        self.supervisor.record(death)


def _next(begun: ObjectRefGenerator, group: WorkerGroup) -> Event:
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
