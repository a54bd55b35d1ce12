"""Heartbeats of workers that open: which of them make progress."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlhf_flow.cluster import heartbeat
from rlhf_flow.cluster.heartbeat import PROGRESS_BYTES, Footprint, HeartbeatMonitor


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("later", "seconds"),
    [
        (Footprint(PROGRESS_BYTES, 0), 20),
        (Footprint(0, PROGRESS_BYTES), 20),
        (Footprint(PROGRESS_BYTES - 1, PROGRESS_BYTES - 1), 50),
        (None, 50),
    ],
)
def test_progress_is_a_change_of_memory_or_of_bytes_read(
    later: Footprint | None, seconds: float, clock: list[float]
) -> None:
    monitor = HeartbeatMonitor()
    for clock[0], footprint in ((0.0, None), (10.0, Footprint(0, 0)), (40.0, later)):
        monitor.beat("engine", footprint)
    clock[0] = 60.0
    assert monitor.progress()["engine"].seconds == seconds
    assert monitor.progress()["engine"].footprint == (later or Footprint(0, 0))
    assert monitor.silence() == {"engine": 20.0}


def test_slow_growth_is_progress(clock: list[float]) -> None:
    monitor = HeartbeatMonitor()
    for second in range(30):
        clock[0] = second
        monitor.beat("engine", Footprint(second * PROGRESS_BYTES // 10, 0))
    assert monitor.progress()["engine"].seconds == 9  # at 20 s it had grown by the second MiB


def test_children_count() -> None:
    pytest.importorskip("psutil")
    alone = heartbeat.footprint()
    code = "held = b'x' * (64 << 20); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert heartbeat.footprint().memory - alone.memory > 64 << 20
        child.communicate(b"\n")
