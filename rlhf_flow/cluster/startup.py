"""Start workers and wait until they are open."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_flow.cluster.heartbeat import BEAT_SECONDS
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor, WorkerError
from rlhf_flow.cluster.worker_group import WorkerGroup, silence

if TYPE_CHECKING:
    from ray import ObjectRef


def open_all(groups: Sequence[WorkerGroup], supervisor: Supervisor) -> None:
    """Start workers that are not started, and wait until all are open. One that dies meanwhile is started again.

    Raises what a worker raised as it opened, and WorkerError after too many deaths or if a worker takes too long.
    """
    import ray

    waiting = [_Opening(group) for group in groups]
    while waiting:
        for each in waiting:
            try:
                each.begin()
            except DeadWorkerError as death:
                each.died(death, supervisor)
        calls = [call for each in waiting for call in each.calls]
        done = ray.wait(calls, num_returns=1, timeout=BEAT_SECONDS)[0] if calls else []
        for each in waiting:
            try:
                each.end(done)
            except DeadWorkerError as death:
                each.died(death, supervisor)
        waiting = [each for each in waiting if not each.group.up]


@dataclass
class _Opening:
    """The calls of `ready` that the ranks of a group have not answered."""

    group: WorkerGroup
    calls: dict[ObjectRef, int] = field(default_factory=dict)  # -> rank

    def begin(self) -> None:
        """Raises DeadWorkerError."""
        if not self.group.ranks:
            self.group.start()
        if not self.calls:
            self.calls = {rank.handle.ready.remote(): number for number, rank in enumerate(self.group.ranks)}

    def end(self, done: Collection[ObjectRef]) -> None:
        """Raises DeadWorkerError, WorkerError, and what a worker raised."""
        for call in self.calls.keys() & done:
            self.group.get(call, self.calls.pop(call))
        if not self.calls:
            self.group.locate()
        elif not done:
            seconds = self.group.start_seconds
            if time.monotonic() - self.group.started > seconds:
                raise WorkerError(
                    f"{self.group.name} did not start in {seconds:g} s. "
                    "Fix: raise cluster.fault_tolerance.start_seconds."
                )
            self.group.check_heartbeats(silence(self.group.monitor))

    def died(self, death: DeadWorkerError, supervisor: Supervisor) -> None:
        supervisor.record(death)
        self.group.stop()
        self.calls.clear()
