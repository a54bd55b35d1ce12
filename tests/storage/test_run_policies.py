"""What RUN, RUN@3, RUN@best, RUN@last and RUN@average mean, in every command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rlhf_flow.storage.run_policies import named_policy

MakeRun = Callable[..., str]
START, EVALUATED = {"eval/win_rate": 0.5}, {"eval/win_rate": 0.7}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run of rounds with these metrics, whose best is `best`; all but round 0 keep their policies, or only `kept`."""

    def make(*rounds: Mapping[str, float], best: int, kept: tuple[int, ...] | None = None) -> str:
        run, start = tmp_path / "run-seed=1", tmp_path / "start"
        start.mkdir()
        for number, metrics in enumerate(rounds):
            folder = run / f"rounds/{number:05d}"
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps({"metrics": metrics}))
            if number and (kept is None or number in kept):
                (folder / "policy").mkdir()
        (run / "config.yaml").write_text("model: {path: /elsewhere}\n")
        (run / "manifest.json").write_text(json.dumps({"starts": [{"model": str(start)}]}))
        (run / "best.json").write_text(json.dumps({"round": best}))
        return str(run)

    return make


def round_of(name: str) -> int:
    policy = named_policy(name)
    assert policy is not None
    return policy.round


def test_a_run_is_the_policy_of_its_best_evaluated_round(make_run: MakeRun) -> None:
    run = make_run(START, EVALUATED, EVALUATED, best=1)
    assert [round_of(name) for name in (run, f"{run}@best", f"{run}@last", f"{run}@1")] == [1, 1, 2, 1]


def test_a_run_without_evaluation_is_its_last_policy(make_run: MakeRun) -> None:
    run = make_run(START, {}, {}, best=0)  # evaluate.every is above the rounds so far
    assert round_of(run) == 2


def test_the_last_round_is_taken_and_told_if_none_is_better_than_the_start(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(START, {"eval/win_rate": 0.3}, best=0)
    policy = named_policy(run)
    assert policy is not None
    assert policy.round == 1
    assert f"round 1 is taken, the last one, because no round is better than the start, {run}@0" in (
        capsys.readouterr().out
    )


def test_the_start_is_the_policy_of_a_run_without_another(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(START, best=0)
    assert [round_of(name) for name in (run, f"{run}@last")] == [0, 0]
    assert capsys.readouterr().out.count("no later policy is on disk") == 2


def test_the_average_has_a_name_of_its_own(make_run: MakeRun) -> None:
    run = make_run(START, EVALUATED, best=1)
    with pytest.raises(ValueError, match=r"run-seed=1@average: the run has no such policy on disk.*Fix: one of"):
        named_policy(f"{run}@average")
    Path(run, "average.json").write_text(json.dumps({"round": 1, "policy": "rounds/00001/average-ema"}))
    average = named_policy(f"{run}@average")
    assert average is not None
    assert (average.name, average.folder) == ("run-seed=1@average", Path(run) / "rounds/00001/average-ema")


@pytest.mark.parametrize("which", ["1", "7", "newest", ""])
def test_a_policy_that_is_not_on_disk_is_refused_with_those_that_are(which: str, make_run: MakeRun) -> None:
    run = make_run(START, EVALUATED, EVALUATED, best=2, kept=(2,))
    with pytest.raises(ValueError, match=rf"@{which}: the run has no such policy.*Fix: one of .*@0, .*@2\."):
        named_policy(f"{run}@{which}")


def test_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    assert named_policy(str(tmp_path)) is None
    assert named_policy(f"{tmp_path}@1") is None


def test_a_start_that_is_gone_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(START, {"eval/win_rate": 0.3}, best=0)
    (tmp_path / "start").rmdir()
    with pytest.raises(ValueError, match=r"@0: the start of the run, /elsewhere, is not there. Fix: "):
        named_policy(f"{run}@0")
