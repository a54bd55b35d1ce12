"""A pool of replicas. Each call goes to a free replica; if the replica dies, the call is retried on another."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlhf_flow.cluster.gpu_sharing import GpuSlot
from rlhf_flow.cluster.heartbeat import BEAT_SECONDS
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup, silence
from rlhf_flow.system.cancellation import check_cancelled

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass
class Call:
    """A method call whose answer does not depend on the replica."""

    method: str
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pool:
    """Replicas of one worker, each a group of one process."""

    slot: GpuSlot
    supervisor: Supervisor

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, in the order of the calls.

        A replica that died is started again, and its call is the next one to be handed out. Raises what a call raised,
        WorkerError after too many deaths, and StoppedError if the caller cancelled.
        """
        self.slot.acquire()
        waiting, idle, answers = deque(range(len(calls))), deque(self.groups), dict[int, Any]()
        running: dict[ObjectRef, tuple[WorkerGroup, int]] = {}
        while len(answers) < len(calls):
            check_cancelled()
            while waiting and idle:
                group = idle.popleft()
                if not self._is_up(group):
                    idle.append(group)
                    continue
                number = waiting.popleft()
                call = calls[number]
                (sent,) = group.send(call.method, *call.arguments, **call.named)
                running[sent] = group, number
            for reference in self._done(running, waiting, idle):
                group, number = running.pop(reference)
                idle.append(group)
                try:
                    group.locate()
                    answers[number] = group.get(reference, 0)
                except DeadWorkerError as death:
                    waiting.appendleft(number)
                    self._drop(group, death)
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

    def _done(
        self, running: dict[ObjectRef, tuple[WorkerGroup, int]], waiting: deque[int], idle: deque[WorkerGroup]
    ) -> list[ObjectRef]:
        """The calls that ended. The calls of replicas that hang go back to `waiting`."""
        import ray

        done: list[ObjectRef]
        done, _ = ray.wait(list(running), num_returns=1, timeout=BEAT_SECONDS)
        if done:
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            return done
        silent = silence(self.groups[0].monitor)  # all groups share the monitor
        for reference, (group, number) in list(running.items()):
            try:
                group.check_heartbeats(silent)
            except DeadWorkerError as death:
                del running[reference]
                idle.append(group)
                waiting.appendleft(number)
                self._drop(group, death)
        return done

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
