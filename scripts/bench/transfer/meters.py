"""Meters for parts of a worker's work: seconds, page faults, and private memory"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

TICK = 0.001  # seconds between two samples of the memory


@dataclass
class Spent:
    seconds: float = 0.0
    faults: int = 0  # minor page faults


@dataclass
class Clock:
    """Seconds and page faults of each named part."""

    spent: dict[str, Spent] = field(default_factory=dict)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        spent = self.spent.setdefault(what, Spent())
        began, faults = time.perf_counter(), _faults()
        try:
            yield
        finally:
            spent.seconds += time.perf_counter() - began
            spent.faults += _faults() - faults

    def timed(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            with self.on(what):
                return work(*arguments, **named)

        return timing

    def read(self) -> dict[str, Spent]:
        read, self.spent = self.spent, {}
        return read


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@dataclass
class Memory:
    """Peak private memory of this process, without files and the object store, while it is watched."""

    before: int = 0  # bytes
    highest: int = 0
    watcher: Thread | None = None

    def watch(self) -> None:
        self.before = self.highest = _own()
        self.watcher = Thread(target=self._look, daemon=True)
        self.watcher.start()

    def leave(self) -> None:
        """Stop watching. Does nothing if not watching."""
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.join()
            self.highest = max(self.highest, _own())

    @property
    def taken(self) -> int:
        """Peak bytes above those held when watching began."""
        return self.highest - self.before

    def _look(self) -> None:
        while self.watcher is not None:
            self.highest = max(self.highest, _own())
            time.sleep(TICK)


def _own() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
