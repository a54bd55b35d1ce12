"""Sweeps: what a sweeper gets of a run, and the group that its runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.cli.start import score
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.runner import prepare as build
from rlhf_flow.types import RoundRecord
from tests.cli.test_main import LOCAL, Prepared


def record(round: int, metrics: dict[str, float]) -> RoundRecord:
    return RoundRecord(round, "", {}, metrics, {}, {})


def test_a_sweeper_gets_the_last_measured_rate() -> None:
    assert score([record(0, {"eval/win_rate": 0.5}), record(1, {"eval/win_rate": 0.7}), record(2, {})]) == 0.7
    assert score([record(0, {"eval/accuracy": 0.6})]) == 0.6
    assert score([record(0, {})]) is None


def test_the_runs_of_a_sweep_are_a_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[RunConfig] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "prepare", lambda config: Prepared(config, seen.append))
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--multirun", "seed=1,2"]) == 0
    assert [config.observe.group for config in seen] == ["mine", "mine"]
    assert [Path(config.run_dir).name for config in seen] == ["mine-seed=1", "mine-seed=2"]
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--multirun", "seed=3", "observe.group=other"]) == 0
    assert seen[-1].observe.group == "other"
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--quiet"]) == 0
    assert (seen[-1].observe.group, seen[-1].observe.shown) == (None, "quiet")
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--json"]) == 0
    assert seen[-1].observe.shown == "json"
