"""Fault tolerance: how long a run waits for workers, how many worker deaths it survives, and why a worker died."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

LAST_LINES = 5  # of a dead worker's log, for the message
START_SECONDS = 300.0
SLOW_DISK = 200e6  # bytes per second, of a network disk that several nodes share
VMSTAT = Path("/proc/vmstat")  # its `oom_kill` counts the processes that the kernel's OOM killer ended


@dataclass(frozen=True)
class FaultTolerance:
    """Timeouts for nodes and workers, and the number of worker deaths that a run survives.

    A worker that opens makes progress while its memory changes, or what it has read and written on disks.
    """

    start_seconds: float | None = None  # longest wait for nodes, and for a worker without progress; null: 300 or more
    silence_seconds: float = 120.0  # a worker without a heartbeat for so long counts as hanging and is killed
    deaths: int = 3  # worker deaths that a run survives; 0: the first death stops the run, which can be resumed

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("start_seconds", "> 0, or null", self.start_seconds is None or self.start_seconds > 0),
            ("silence_seconds", ">= 10, because workers on a busy machine miss heartbeats", self.silence_seconds >= 10),
            ("deaths", ">= 0 (0: the first death stops the run)", self.deaths >= 0),
        ):
            if not ok:
                raise ValueError(f"cluster.fault_tolerance.{key} must be {rule}, got {vars(self)[key]}")

    @property
    def patience(self) -> float:
        """Seconds."""
        return START_SECONDS if self.start_seconds is None else self.start_seconds

    def sized(self, weights: int) -> FaultTolerance:
        """With time for workers that load so many bytes from a slow disk, unless start_seconds is given."""
        longer = START_SECONDS + weights / SLOW_DISK
        return self if self.start_seconds is not None else replace(self, start_seconds=longer)


class WorkerError(RuntimeError):
    """The run cannot go on, because worker processes died or did not start."""


@dataclass(eq=False)
class DeadWorkerError(Exception):
    """A worker process died, or was killed because it hung."""

    worker: str  # engine 1, learner rank 0 of 2
    reason: str
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"the process of {self.worker} died: {self.reason}.{self.log}"

    @property
    def log(self) -> str:
        return f" Its last lines: {' | '.join(self.last_lines)}." if self.last_lines else ""


class FailedWorkerError(DeadWorkerError):
    """A worker process answers, but failed so that only a new one can go on."""

    def __str__(self) -> str:
        return f"{self.worker} failed, so its process was ended: {self.reason}.{self.log}"


@dataclass
class Supervisor:
    """Counts worker deaths and stops the run at the first one above the limit."""

    limit: int
    deaths: list[DeadWorkerError] = field(default_factory=list)

    def record(self, death: DeadWorkerError) -> None:
        """Count a death and print a warning. Raises WorkerError if the limit is exceeded."""
        # A copy without the traceback, which would keep the callers' policies and weights alive.
        self.deaths.append(replace(death))
        number = len(self.deaths)
        if number > self.limit:
            of = f" This was death number {number}; cluster.fault_tolerance.deaths={self.limit}." if self.limit else ""
            raise WorkerError(
                f"{death}{of} The run stopped; all commits are kept. Start the same command again to resume."
            ) from death
        print(f"warning: {death} It is started again ({number} of {self.limit} deaths).", flush=True)


def cause_of_death(message: str, last_lines: tuple[str, ...], *, node_alive: bool, oom_kills: int) -> str:
    """Why an actor died, from Ray's `message` and the end of its log.

    `oom_kills`: processes that the kernel killed on its node since the actor started.
    """
    message = " ".join(message.split())
    log = "\n".join(last_lines)
    if not node_alive:
        return "its node was lost"
    if "running low on memory" in message or "OutOfMemory" in message:
        return "Ray killed it because its node ran out of memory"
    if "CUDA error" in log or "cudaError" in log:
        return "CUDA failed"
    if "Fatal Python error" in log or "Segmentation fault" in log:
        return "it crashed"
    if oom_kills > 0:
        return "the kernel killed it because the machine ran out of memory"
    if "creation task" in message:
        return f"it could not be started: {message}"
    if "exit_actor" in message or "SystemExit" in log:
        return "it exited"
    return "it was killed"


def oom_kills() -> int:
    """Processes that the OOM killer of this machine has ended since boot; 0 if the kernel does not count them."""
    if not VMSTAT.exists():
        return 0
    lines = (line.split() for line in VMSTAT.read_text().splitlines())
    return next((int(count) for name, count in lines if name == "oom_kill"), 0)
