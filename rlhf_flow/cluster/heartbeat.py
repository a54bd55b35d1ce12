"""Heartbeats: they find workers that hang or were stopped, which Ray does not report as dead."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.actor import ActorHandle

BEAT_SECONDS = 1.0


class HeartbeatMonitor:
    """An actor on the driver's node that receives the heartbeats of all workers."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def beat(self, name: str) -> None:
        self.last[name] = time.monotonic()

    def silence(self) -> dict[str, float]:
        """Seconds since the last heartbeat of each worker that has sent one."""
        now = time.monotonic()
        return {name: now - last for name, last in self.last.items()}


def start_beating(monitor: ActorHandle, name: str) -> None:
    """Send heartbeats from a daemon thread of this process.

    The thread needs the GIL, so heartbeats also stop if the process is stopped or loops in native code.
    """

    def beat() -> None:
        while True:
            monitor.beat.remote(name)
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
