"""Replicas of a worker: small pieces of work are handed out as they come free, and none is lost with one of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlhf_flow.cluster.gpu_sharing import GpuSlot
from rlhf_flow.cluster.heartbeat import BEAT_SECONDS
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup, silence
from rlhf_flow.system.cancellation import heed

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass
class Call:
    """A method that any replica may run: the answer must not depend on which one does."""

    method: str
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pool:
    """Crews of one process each that hold the same."""

    turn: GpuSlot
    supervisor: Supervisor

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, in the order of the calls.

        Whoever is free gets the next call. The call of a replica that died goes back to the front, and another replica
        is started in its place. Raises what a call raised, or WorkerError where too many died; and StoppedError.
        """
        self.turn.take()
        waiting, idle, answers = deque(range(len(calls))), deque(self.crews), dict[int, Any]()
        running: dict[ObjectRef, tuple[WorkerGroup, int]] = {}
        while len(answers) < len(calls):
            heed()
            while waiting and idle:
                crew = idle.popleft()
                if not self._there(crew):
                    idle.append(crew)
                    continue
                number = waiting.popleft()
                call = calls[number]
                (sent,) = crew.send(call.method, *call.arguments, **call.named)
                running[sent] = crew, number
            for reference in self._done(running, waiting, idle):
                crew, number = running.pop(reference)
                idle.append(crew)
                try:
                    crew.locate()
                    answers[number] = crew.get(reference, 0)
                except DeadWorkerError as death:
                    waiting.appendleft(number)
                    self._gone(crew, death)
        return [answers[number] for number in range(len(calls))]

    @property
    def crews(self) -> list[WorkerGroup]:
        return self.turn.crews

    def dismiss(self) -> None:
        for crew in self.crews:
            crew.dismiss()

    @property
    def dismissed(self) -> bool:
        return not any(crew.ranks for crew in self.crews)

    def _done(
        self, running: dict[ObjectRef, tuple[WorkerGroup, int]], waiting: deque[int], idle: deque[WorkerGroup]
    ) -> list[ObjectRef]:
        """Calls that ended, all of them at once; those of replicas that hang go back."""
        import ray

        done: list[ObjectRef]
        done, _ = ray.wait(list(running), num_returns=1, timeout=BEAT_SECONDS)
        if done:
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
        else:
            silent = silence(self.crews[0].pulse)  # one pulse hears all
            for reference, (crew, number) in list(running.items()):
                try:
                    crew.listen(silent)
                except DeadWorkerError as death:
                    del running[reference]
                    idle.append(crew)
                    waiting.appendleft(number)
                    self._gone(crew, death)
        return done

    def _there(self, crew: WorkerGroup) -> bool:
        """Whether it can be asked: one that is gone is started again."""
        try:
            if not crew.ranks:
                crew.start()
        except DeadWorkerError as death:
            self._gone(crew, death)
        return bool(crew.ranks)

    def _gone(self, crew: WorkerGroup, death: DeadWorkerError) -> None:
        self.supervisor.survive(death)
        crew.dismiss()
