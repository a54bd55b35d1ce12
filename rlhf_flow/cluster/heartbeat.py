"""Heartbeats: a worker that hangs or was stopped does not die, and nobody would notice otherwise."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.actor import ActorHandle

BEAT_SECONDS = 1.0


class HeartbeatMonitor:
    """Hears the beats of all workers, in a process of its own on the driver's node."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def beat(self, name: str) -> None:
        self.last[name] = time.monotonic()

    def silence(self) -> dict[str, float]:
        """Seconds since the last beat of each worker; of one that never beat, nothing."""
        now = time.monotonic()
        return {name: now - last for name, last in self.last.items()}


def start_beating(pulse: ActorHandle, name: str) -> None:
    """Beat from a thread of this process for as long as it lives.

    The thread needs Python's lock now and then: it falls silent with a process that is stopped or spins in native code.
    """

    def beat() -> None:
        while True:
            pulse.beat.remote(name)
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, name="pulse", daemon=True).start()
