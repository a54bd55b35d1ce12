"""Whose turn it is, where all roles work on the same GPUs: only who works has its weights there."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup


@dataclass
class GpuScheduler:
    """Nobody takes turns where each has GPUs of its own."""

    shared: bool
    supervisor: Supervisor
    at_work: GpuSlot | None = None

    def give(self, turn: GpuSlot) -> None:
        """Let whoever worked step aside, and then these work. Who died on the way comes back when it is asked."""
        if not self.shared or self.at_work is turn:
            return
        if self.at_work is not None:
            self._tell(self.at_work, "step_aside")
        self.at_work = turn
        self._tell(turn, "come_back")

    def _tell(self, turn: GpuSlot, method: str) -> None:
        sent = [(crew, crew.send(method)) for crew in turn.crews]  # of a crew without processes nothing is asked
        for crew, calls in sent:
            try:
                crew.wait(calls)
            except DeadWorkerError as death:
                self.supervisor.survive(death)
                crew.dismiss()


@dataclass(eq=False)
class GpuSlot:
    """Of all that work at the same time: the replicas of one engine or scorer, or the ranks of one learner.

    Whoever is started in it has its weights on the GPU from the beginning; so nobody is started out of turn.
    """

    turns: GpuScheduler
    crews: list[WorkerGroup] = field(default_factory=list)

    @property
    def is_mine(self) -> bool:
        """Whether what they hold is there, and not aside."""
        return not self.turns.shared or self.turns.at_work is self

    def take(self) -> None:
        """Before anything is asked. Raises WorkerError where too many died."""
        self.turns.give(self)
