"""A run that is killed anywhere ends in the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("settings", "stride"),
    [
        pytest.param({"rounds": 2}, 1, id="every rename of two rounds", marks=pytest.mark.soak),
        pytest.param({"rounds": 2}, 7, id="two rounds"),
        pytest.param({"rounds": 5, "every": 3, "steps": 2, "k": 2}, 41, id="few checkpoints, commits inside learning"),
        pytest.param({"rounds": 4, "every": 3, "steps": 2, "lag": 1}, 31, id="answers drawn while the learner is busy"),
    ],
)
def test_killed_at_any_rename_or_on_a_full_disk_a_run_ends_in_the_same_bytes(settings: dict, stride: int) -> None:
    command = [sys.executable, "-m", "tests.support.toy_drill", json.dumps(settings), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["differing"] == []
    assert result["kills"] >= 2 * (result["renames"] // stride)
    assert result["full_disks"] > 0
