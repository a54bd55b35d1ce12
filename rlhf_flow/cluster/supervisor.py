"""Why a worker died, how often one may, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

LAST_LINES = 5  # of a dead worker's log
OOM_KILLS = Path("/proc/vmstat")  # counts, as `oom_kill`, the processes that the kernel killed for want of memory


class WorkerError(RuntimeError):
    """Worker processes ended, and the run cannot go on without them: which one, why, and what it said last."""


@dataclass(eq=False)
class DeadWorkerError(Exception):
    """A process of a worker ended, or hangs and was ended."""

    who: str  # engine 1, learner rank 0 of 2
    why: str
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f" Its last lines: {' | '.join(self.last_lines)}." if self.last_lines else ""
        return f"the process of {self.who} died: {self.why}.{said}"


@dataclass
class Supervisor:
    """Counts deaths: so many are survived, and then the run stops."""

    limit: int
    deaths: list[DeadWorkerError] = field(default_factory=list)

    def survive(self, death: DeadWorkerError) -> None:
        """Say that it happened. Raises WorkerError where it was one too many."""
        # Not the exception itself: its traceback would keep what its callers held, policies and their weights.
        self.deaths.append(replace(death))
        number = len(self.deaths)
        if number > self.limit:
            after = f" That was death number {number}; cluster.fault_tolerance.deaths={self.limit}." if self.limit else ""
            raise WorkerError(
                f"{death}{after} The run stopped; everything committed is kept. Start the same command again to go on."
            ) from death
        print(f"warning: {death} It is started again ({number} of {self.limit} deaths).", flush=True)


def cause(message: str, last_lines: tuple[str, ...], *, node_alive: bool, oom_kills: int) -> str:
    """Why, in words, from what Ray says of an actor's death. `oom_kills`: on its node since it was up."""
    told = " ".join(message.split())
    written = "\n".join(last_lines)
    if not node_alive:
        return "its node was lost"
    if "running low on memory" in told or "OutOfMemory" in told:
        return "Ray ended it because its node ran out of memory"
    if "CUDA error" in written or "cudaError" in written:
        return "CUDA failed"
    if "Fatal Python error" in written or "Segmentation fault" in written:
        return "it crashed"
    if oom_kills > 0:
        return "the kernel killed it, for the machine ran out of memory"
    if "creation task" in told:
        return f"it could not be started: {told}"
    if "exit_actor" in told or "SystemExit" in written:
        return "it ended itself"
    return "it was killed"


def oom_kills() -> int:
    """How many processes the kernel of this machine has killed for want of memory; 0 where it does not say."""
    if not OOM_KILLS.exists():
        return 0
    lines = (line.split() for line in OOM_KILLS.read_text().splitlines())
    return next((int(count) for name, count in lines if name == "oom_kill"), 0)
