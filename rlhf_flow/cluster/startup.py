"""Start workers, wait until they are open, and print which are not.

A worker that loads a large model may take as long as it needs: the wait ends if its process does not start, hangs, or
makes no progress.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_flow.cluster.heartbeat import BEAT_SECONDS, Progress
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor, WorkerError
from rlhf_flow.cluster.worker_group import WorkerGroup, progress, silence
from rlhf_flow.system.output import tell

if TYPE_CHECKING:
    from ray import ObjectRef

REPORT_SECONDS = 30.0  # between two lines on the console
NAMED = 4  # workers in a line
GIB = 1 << 30


def open_all(groups: Sequence[WorkerGroup], supervisor: Supervisor) -> None:
    """Start workers that are not started, and wait until all are open. One that dies meanwhile is started again.

    Raises what a worker raised as it opened, and WorkerError after too many deaths or if a worker makes no progress.
    """
    import ray

    waiting, console = [_Opening(group) for group in groups], _Console(sum(group.size for group in groups))
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
        console.report(waiting)


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
            self.group.check_heartbeats(silence(self.group.monitor))
            self._check_progress(progress(self.group.monitor))

    def died(self, death: DeadWorkerError, supervisor: Supervisor) -> None:
        supervisor.record(death)
        self.group.stop()
        self.calls.clear()

    def states(self, made: Mapping[str, Progress]) -> Iterator[str]:
        """What each rank that is not open has done so far."""
        for number in self.calls.values():
            yield f"{self.group.title(number)} ({_state(made.get(self.group.ranks[number].heartbeat))})"

    def _check_progress(self, made: Mapping[str, Progress]) -> None:
        """A rank that is ahead of its peers waits for them, so the progress of one rank is that of all."""
        known = {rank: made[name] for rank, (_, name) in enumerate(self.group.ranks) if name in made}
        opening = {rank: known[rank] for rank in self.calls.values() if rank in known}
        rank = min(opening, key=lambda rank: opening[rank].seconds, default=None)
        if rank is not None and opening[rank].seconds > self.group.start_seconds:
            raise WorkerError(
                f"{self.group.title(rank)} has not opened: no progress for {opening[rank].seconds:.0f} s "
                f"({_state(opening[rank])}). Fix: raise cluster.fault_tolerance.start_seconds, which is "
                f"{self.group.start_seconds:g}."
            )


@dataclass
class _Console:
    """Prints a line at intervals, and one at the end if it has printed any."""

    workers: int
    began: float = field(default_factory=time.monotonic)
    printed: int = 0

    def report(self, waiting: Sequence[_Opening]) -> None:
        seconds = time.monotonic() - self.began
        if not waiting and self.printed:
            tell(f"all workers are up after {seconds:.0f} s")
        elif waiting and seconds > (self.printed + 1) * REPORT_SECONDS:
            self.printed += 1
            made = progress(waiting[0].group.monitor)  # all groups share the monitor
            states = [state for each in waiting for state in each.states(made)]
            more = f" and {len(states) - NAMED} more" if len(states) > NAMED else ""
            tell(
                f"waiting for {len(states)} of {self.workers} workers for {seconds:.0f} s: "
                f"{', '.join(states[:NAMED])}{more}"
            )


def _state(made: Progress | None) -> str:
    if made is None:
        return "no process yet"
    if made.footprint is None:
        return "its process has started"
    loaded = f"{made.footprint.memory / GIB:.1f} GiB in memory, {made.footprint.disk / GIB:.1f} GiB read or written"
    return loaded if made.seconds < REPORT_SECONDS else f"{loaded}, unchanged for {made.seconds:.0f} s"
