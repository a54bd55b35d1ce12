"""Time sharing of GPUs: with cluster.layout=colocated only one role at a time has its weights on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup


@dataclass
class GpuScheduler:
    """Decides which slot has the GPUs. With `shared=False` each role has GPUs of its own, and it does nothing."""

    shared: bool
    supervisor: Supervisor
    active: GpuSlot | None = None

    def activate(self, slot: GpuSlot, *, trains: bool) -> None:
        """Offload the workers of the active slot, then load those of `slot`. Raises WorkerError after too many deaths.

        A worker that dies meanwhile is started again at its next call. `trains`: an engine's policy is replaced next.
        """
        if not self.shared or self.active is slot:
            return
        if self.active is not None:
            self._call(self.active, "leave", trains)
        self.active = slot
        self._call(slot, "call", "come_back", (), {})

    def _call(self, slot: GpuSlot, method: str, *arguments: object) -> None:
        sent = [(group, group.send(method, *arguments)) for group in slot.groups]  # none if a group has no processes
        for group, calls in sent:
            try:
                group.wait(calls)
            except DeadWorkerError as death:
                self.supervisor.record(death)
                group.stop()


@dataclass(eq=False)
class GpuSlot:
    """The workers that use the GPUs at the same time: the replicas of an engine or scorer, or the ranks of a learner.

    A worker loads its weights onto the GPU when it starts, so acquire the slot before you start one.
    """

    scheduler: GpuScheduler
    groups: list[WorkerGroup] = field(default_factory=list)

    def acquire(self, *, trains: bool = False) -> None:
        """Call this before each call of a worker. Raises WorkerError after too many deaths.

        `trains`: the call begins a round of training.
        """
        self.scheduler.activate(self, trains=trains)
