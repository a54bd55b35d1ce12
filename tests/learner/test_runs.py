"""Whole runs with a real learner, in one process: what the loop and the learner owe each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tiny.prompts(tmp_path / "prompts.jsonl")


def indifferent(prompt: object, answer: str, meta: object) -> float:
    """A judge to whom all answers are the same: no pairs."""
    return 0.0


def published(run: Path, rounds: int) -> list[str]:
    """The policy of each round."""
    entries = [run / f"rounds/{round:05d}/stages/publish.json" for round in range(1, rounds + 1)]
    return [json.loads(entry.read_text())["facts"]["sha256"] for entry in entries]


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.soak), "bfloat16"])
def test_a_run_goes_on_after_a_round_without_pairs(model: Path, asked: Path, tmp_path: Path, dtype: str) -> None:
    def run(name: str, rounds: int) -> int:
        judge = {"scorer.function": "tests.learner.test_runs.indifferent", "model.dtype": dtype}
        keys = {"alarms.no_pairs": "warn", **judge}
        return main(["run", *tiny.overrides(model, asked, tmp_path / name, rounds=rounds, **keys)])

    assert run("in two", 1) == 0
    assert run("in two", 2) == 0
    assert run("straight", 2) == 0
    first, second = published(tmp_path / "straight", 2)
    assert first == second
    assert published(tmp_path / "in two", 2) == [first, second]


def test_metrics_are_means_over_pairs_however_a_round_is_cut(model: Path, asked: Path, tmp_path: Path) -> None:
    lines = []
    for name, stride in (("by ones", 1), ("by twos", 2)):
        steps = {"learner.training.batch": 3, "learner.training.epochs": 2, "checkpoint.steps": stride}
        steps["answers.n"] = 8  # the best and the worst: of two, some would be the same
        assert main(["run", *tiny.overrides(model, asked, tmp_path / name, **steps)]) == 0
        lines.append(json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]))
    by_ones, by_twos = ({key: line[key] for key in line if key.startswith("train/")} for line in lines)
    assert by_ones["train/pairs"] == 2 * 8
    assert by_ones["train/steps"] == 2 * 3  # of 3, 3 and 2 pairs
    assert by_twos == pytest.approx(by_ones, rel=1e-12)


def test_a_sharded_learner_resumes_a_run(model: Path, asked: Path, tmp_path: Path) -> None:
    def run(name: str, rounds: int) -> list[str]:
        keys = {"learner": "fsdp", "learner.ranks": 1, "evaluate.every": 9}
        assert main(["run", *tiny.overrides(model, asked, tmp_path / name, rounds=rounds, **keys)]) == 0
        return published(tmp_path / name, rounds)

    begun, whole = run("in two", 1), run("straight", 2)
    assert len(set(whole)) == 2
    assert begun == whole[:1]
    assert run("in two", 2) == whole
