"""Heartbeats: they find workers that hang or were stopped, which Ray does not report as dead.

While a worker opens, they also tell how much it has loaded.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ray.actor import ActorHandle

BEAT_SECONDS = 1.0
BEATS_PER_FOOTPRINT = 3  # to find the children of a process takes some milliseconds
PROGRESS_BYTES = 1 << 20


class Footprint(NamedTuple):
    """What a process and its children have loaded. Processor time is left out: a hanging collective spins."""

    memory: int  # bytes, resident
    disk: int  # bytes read and written

    def differs(self, other: Footprint) -> bool:
        return max(abs(self.memory - other.memory), abs(self.disk - other.disk)) >= PROGRESS_BYTES


class Progress(NamedTuple):
    """How far a process has opened its worker."""

    seconds: float  # since its footprint last changed
    footprint: Footprint | None  # None: not measured yet


class HeartbeatMonitor:
    """An actor on the driver's node that receives the heartbeats of all workers."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.newest: dict[str, Footprint] = {}
        self.changed: dict[str, tuple[float, Footprint | None]] = {}

    def beat(self, name: str, footprint: Footprint | None = None) -> None:
        """`footprint`: of a process that opens its worker."""
        now = time.monotonic()
        self.last[name] = now
        _, before = self.changed.setdefault(name, (now, None))
        if footprint is not None:
            self.newest[name] = footprint
            if before is None or footprint.differs(before):
                self.changed[name] = now, footprint

    def silence(self) -> dict[str, float]:
        """Seconds since the last heartbeat of each worker that has sent one."""
        now = time.monotonic()
        return {name: now - last for name, last in self.last.items()}

    def progress(self) -> dict[str, Progress]:
        """Of each worker that has sent a heartbeat."""
        now = time.monotonic()
        return {name: Progress(now - at, self.newest.get(name)) for name, (at, _) in self.changed.items()}


def start_beating(monitor: ActorHandle, name: str, opening: Callable[[], bool]) -> None:
    """Send heartbeats from a daemon thread of this process, with its footprint while `opening()`.

    The thread needs the GIL, so heartbeats also stop if the process is stopped or loops in native code.
    """

    def beat() -> None:
        for number in itertools.count():
            measured = opening() and number % BEATS_PER_FOOTPRINT == 0
            monitor.beat.remote(name, footprint() if measured else None)
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()


def footprint() -> Footprint:
    """Of this process and its children."""
    import psutil  # installed with Ray

    own, memory, disk = psutil.Process(), 0, 0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error, OSError):  # it has ended, or the kernel hides its counters
            memory += process.memory_info().rss
            if psutil.LINUX:
                counters = process.io_counters()
                disk += counters.read_bytes + counters.write_bytes
    return Footprint(memory, disk)
