"""Sweeps: what a sweeper gets of a run, and the group that its runs share."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from rlhf_flow.cli.hydra_jobs import check_direction
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
    assert score([record(0, {"eval/loss": 2.5})]) == 2.5
    assert score([record(0, {})]) is None


def test_the_runs_of_a_sweep_are_a_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[RunConfig] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "prepare", lambda config, choices: Prepared(config, seen.append))
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--multirun", "seed=1,2"]) == 0
    assert [config.observe.group for config in seen] == ["mine", "mine"]
    assert [Path(config.run_dir).name for config in seen] == ["mine-seed=1", "mine-seed=2"]
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--multirun", "seed=3", "observe.group=other"]) == 0
    assert seen[-1].observe.group == "other"
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--quiet"]) == 0
    assert (seen[-1].observe.group, seen[-1].observe.shown) == (None, "quiet")
    assert main(["run", *LOCAL, "run_dir=runs/mine", "--json"]) == 0
    assert seen[-1].observe.shown == "json"


@pytest.mark.parametrize(
    ("command", "direction"), [("run", "minimize"), ("train-reward", "minimize"), ("sft", "maximize")]
)
def test_a_search_for_the_worst_run_is_refused(command: str, direction: str) -> None:
    other = {"minimize": "maximize", "maximize": "minimize"}[direction]
    check_direction(command, None)
    check_direction(command, other)
    with pytest.raises(ValueError, match=rf"direction={direction}: .* Fix: hydra.sweeper.direction={other}\."):
        check_direction(command, direction)


@pytest.mark.parametrize("failing", [(), (3,), (1, 2, 3)])
def test_optuna_gets_the_win_rate_and_no_failed_run_is_the_best(
    failing: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    tried: list[int] = []

    class Measured(Prepared):
        """A run whose win rate is its seed / 10."""

        def run(self, clusters: object = None) -> list[RoundRecord]:
            tried.append(self.config.seed)
            if self.config.seed in failing:
                raise RuntimeError("no memory")
            return [record(1, {"eval/win_rate": self.config.seed / 10})]

    monkeypatch.setattr(build, "prepare", lambda config, choices: Measured(config, lambda _: None))
    optuna = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1", "seed=choice(1,2,3)"]
    search = ["run", *LOCAL, f"run_dir={tmp_path}/mine", "--multirun", *optuna]
    assert main(search) == 2
    assert "Fix: hydra.sweeper.direction=maximize." in capsys.readouterr().err and not tried
    assert main([*search, "hydra.sweeper.direction=maximize"]) == bool(failing)
    assert capsys.readouterr().err.count("rlhf-flow: the run failed: no memory") == sum(map(tried.count, failing))
    assert len(tried) == 4 and len({*tried}) > 1 and 3 in tried
    found = tmp_path / "mine-multirun" / "optimization_results.yaml"
    ended = {*tried} - {*failing}
    assert found.exists() == bool(ended)
    assert not ended or yaml.safe_load(found.read_text())["best_params"] == {"seed": max(ended)}


def ran(folder: Path, win_rate: float | None) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text("rounds: 1\n")
    lines = [{"round": 0, "eval/win_rate": 0.5}] + (
        [] if win_rate is None else [{"round": 1, "eval/win_rate": win_rate}]
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if win_rate is not None:
        (folder / "final.json").write_text("{}")


def test_the_report_of_a_sweep_has_its_runs_by_their_swept_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, rate in enumerate((0.6, 0.8, None, 0.7, 0.55)):
        ran(tmp_path / f"mine-seed={seed}", rate)
    ran(tmp_path / "other-seed=1", 0.9)
    ran(tmp_path / "mine", 0.9)
    assert main(["report", str(tmp_path / "mine-multirun")]) == 0
    *lines, _, path = capsys.readouterr().out.splitlines()
    assert re.findall(r"^seed=\d", "\n".join(lines), re.M) == ["seed=1", "seed=3", "seed=0", "seed=4", "seed=2"]
    assert "0.800, round 1" in lines[2] and lines[-1].endswith("not finished: round 1 of 1")
    assert Path(path) == tmp_path / "mine-multirun" / "compared.html"
    html = Path(path).read_text()
    assert "seed=1 · seed=3 · seed=0 · seed=4" in html


def test_the_folder_of_a_sweep_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "mine-multirun")]) == 2
    assert "no run of this sweep has started" in capsys.readouterr().err
