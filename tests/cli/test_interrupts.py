"""A run that a signal stops says how to resume it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import tiny

pytestmark = pytest.mark.slow
WAIT = 120.0  # seconds


@pytest.mark.parametrize("cluster", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.soak])])
def test_sigterm_ends_it_with_the_command_that_resumes(cluster: str, tmp_path: Path) -> None:
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    keys = tiny.overrides(model, asked, tmp_path / "run", rounds=1000, cluster=cluster)
    command = [sys.executable, "-m", "rlhf_flow", "run", *keys]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        until = time.monotonic() + WAIT
        while not list(tmp_path.glob("run/rounds/00001/*")) and run.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        run.terminate()
        _, said = run.communicate(timeout=WAIT)
    assert run.returncode == 128 + signal.SIGTERM, said
    assert said.strip().endswith(f"-m rlhf_flow resume {shlex.quote(str(tmp_path / 'run'))}"), said
