"""The script that goes from sft to export: its table, and all of it with each step killed once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from whole_way import Step, compared

SCRIPT = Path(__file__).parents[2] / "scripts/proofs/whole_way.py"


def test_a_file_that_differs_after_a_kill_is_told(tmp_path: Path) -> None:
    every = [Step(name, [], name, "weights") for name in ("sft", "run")]
    for root, texts in {"whole": ("a", "b"), "killed": ("a", "c")}.items():
        for step, text in zip(every, texts, strict=True):
            (tmp_path / root / step.folder).mkdir(parents=True)
            (tmp_path / root / step.folder / step.result).write_text(text)
    places = dict.fromkeys(("sft", "run"), "2.0 s, after 1/learn")
    _, *lines = compared(every, tmp_path / "whole", tmp_path / "killed", places)
    assert [line.split()[-1] for line in lines] == ["equal", "DIFFERENT"]
    assert all("after 1/learn" in line for line in lines)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_each_step_is_killed_and_resumed_to_the_same_files() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--kill"], capture_output=True, text=True, timeout=2900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 8
