"""The crash drill on real models: kill -9 of a run's processes at their work, the same command again, equal hashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_flow.sandbox.build import build

DRILL = Path(__file__).parents[2] / "scripts" / "proofs" / "drill.py"
# Before and after every commit: tests/runs/test_resume.py. Deaths that a run survives: tests/cluster/test_deaths.py.
KILLS = ("engine-0:sample", "scorer-0:score", "learner-1:learn")  # all cases: make drill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def drill(*arguments: str) -> str:
    build()
    done = subprocess.run([sys.executable, str(DRILL), *arguments], capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
def test_the_driver_killed_in_and_after_every_stage_in_one_process() -> None:
    assert "14 of 14 cases ended in the same hashes, without orphans" in drill("--stack", "local")


@pytest.mark.soak
def test_the_driver_killed_in_one_process() -> None:
    assert "1 of 1 cases ended in the same hashes" in drill("--stack", "local", "--cases", "driver:publish")


@pytest.mark.soak
def test_the_driver_killed_at_its_work_on_the_real_stack() -> None:
    assert "1 of 1 cases ended in the same hashes" in drill("--stack", "ray", "--cases", "driver:learn")


@pytest.mark.soak
def test_workers_killed_at_their_work_on_the_real_stack() -> None:
    assert "3 of 3 cases ended in the same hashes, without orphans" in drill("--stack", "ray", "--cases", *KILLS)
