"""`rlhf-flow train-reward`: from a file of preferences to a judge, by the same loop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow import rows
from rlhf_flow.__main__ import main
from rlhf_flow.scorer.gpm import GPM
from rlhf_flow.scorer.reward_model import RewardModel
from rlhf_flow.specs import Place
from tests import tiny

CYCLES = ("ABC", "DEF", "GHI", "JKL")  # each letter beats the next one, around


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


def short_and_long(number: int = 40) -> list[dict[str, object]]:
    """Short answers are better."""
    return [
        {"prompt": f"Tell me about {i} cats.", "chosen": f"{i % 7}.", "rejected": f"They are {i % 5} or more."}
        for i in range(number)
    ]


def around(number: int = 80) -> list[dict[str, object]]:
    """For each prompt a whole cycle: three pairs, of which any number for each answer gets one or two right."""
    return [
        {"prompt": f"Say {i}.", "chosen": 8 * cycle[k], "rejected": 8 * cycle[(k + 1) % 3]}
        for i in range(number)
        for cycle in [CYCLES[i % len(CYCLES)]]
        for k in range(3)
    ]


def in_order(number: int = 80) -> list[dict[str, object]]:
    """The same without a cycle: the letter that comes first in the alphabet is better."""
    both = ("chosen", "rejected")
    return [row | dict(zip(both, sorted(str(row[key]) for key in both), strict=True)) for row in around(number)]


def overrides(model: Path, data: Sequence[Mapping[str, object]], folder: Path, **keys: object) -> list[str]:
    path = folder / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    values: dict[str, object] = {
        "cluster": "local",
        "learner": "torch",
        "model.path": model,
        "prompts.path": path,
        "prompts.batch": 16,
        "prompts.held_out": 8,
        "learner.training.batch": 8,
        "learner.training.optimizer.lr": 1e-3,
        "rounds": 2,
        "run_dir": folder / "run",
    }
    return [f"{key}={value}" for key, value in (values | keys).items()]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kind", "judge"), [("bradley_terry", RewardModel), ("gpm", GPM)])
def test_what_is_trained_is_a_judge_that_says_the_same(
    kind: str, judge: type[RewardModel] | type[GPM], model: Path, tmp_path: Path
) -> None:
    assert main(["train-reward", *overrides(model, short_and_long(), tmp_path, reward=kind)]) == 0
    run = tmp_path / "run"
    start, _, last = metrics(run)
    assert last["eval/log_loss"] < start["eval/log_loss"]
    assert last["eval/pairs"] == 8 and last["train/pairs"] == 16
    evaluation = run / "rounds" / "00002" / "evaluation"
    answers = rows.to_rollouts(pq.read_table(evaluation / "answers.parquet"))
    wins = judge(str(run / "rounds" / "00002" / "policy")).open(Place()).score(answers).wins[:, 0, 1]
    log_loss = -np.log(wins.astype(np.float64)).mean()  # the first was chosen, always
    assert log_loss == pytest.approx(last["eval/log_loss"], abs=1e-4)
    curve = json.loads((evaluation / "reliability.json").read_text())
    assert sum(bin["pairs"] for bin in curve) == 8


def test_a_run_in_two_starts_is_the_same_run(model: Path, tmp_path: Path) -> None:
    asked = overrides(model, short_and_long(), tmp_path)
    for run_dir, rounds in (("in two", 1), ("in two", 2), ("straight", 2)):
        assert main(["train-reward", *asked, f"run_dir={tmp_path / run_dir}", f"rounds={rounds}"]) == 0
    one, other = (
        (tmp_path / run_dir / "rounds/00002/policy/model.safetensors").read_bytes()
        for run_dir in ("in two", "straight")
    )
    assert one == other


def test_labels_may_be_a_column_or_ratings(model: Path, tmp_path: Path) -> None:
    data = [
        row | {"p": None if i % 4 == 0 else 0.9, "first_rating": 4, "second_rating": 1}
        for i, row in enumerate(short_and_long())
    ]
    by_column = overrides(model, data, tmp_path, rounds=1)
    assert main(["train-reward", *by_column, "scorer.preference=p"]) == 0
    (_, found) = metrics(tmp_path / "run")
    assert found["pairs/used"] + found["pairs/abstained"] == 16 and found["pairs/abstained"] > 0
    rated = [*by_column, f"run_dir={tmp_path / 'rated'}", "reward=rating"]
    assert main(["train-reward", *rated]) == 0
    assert metrics(tmp_path / "rated")[1]["train/target"] == pytest.approx(3, abs=1e-4)


def test_a_reward_model_is_trained_on(model: Path, tmp_path: Path) -> None:
    asked = overrides(model, short_and_long(), tmp_path, rounds=1)
    assert main(["train-reward", *asked]) == 0
    trained = tmp_path / "run" / "rounds" / "00001" / "policy"
    assert main(["train-reward", *asked, f"model.path={trained}", f"run_dir={tmp_path / 'on'}"]) == 0
    assert metrics(tmp_path / "on")[0]["eval/log_loss"] == metrics(tmp_path / "run")[1]["eval/log_loss"]


def taught(kind: str, data: list[dict[str, object]], model: Path, folder: Path) -> dict[str, float]:
    """The metrics on held-out prompts, after one round on 60 others."""
    keys = {
        "reward": kind,
        "rounds": 1,
        "prompts.batch": 180,
        "prompts.held_out": 60,
        "learner.training.batch": 15,
        "learner.training.micro_batch": 15,
        "learner.training.epochs": 12,
        "learner.training.optimizer.lr": 2e-3,
        "learner.training.schedule.kind": "cosine",
        "evaluate.every": 2,
        "run_dir": folder / kind,
    }
    assert main(["train-reward", *overrides(model, data, folder, **keys)]) == 0
    return metrics(folder / kind)[-1]


def test_only_a_general_preference_model_learns_a_cycle(model: Path, tmp_path: Path) -> None:
    general, number = (taught(kind, around(), model, tmp_path) for kind in ("gpm", "bradley_terry"))
    assert general["eval/accuracy"] >= 0.95 and general["eval/cycle_accuracy"] >= 0.9
    assert number["eval/accuracy"] <= 0.65 and number["eval/cycle_accuracy"] == 0
    assert number["eval/log_loss"] > 0.69 > 0.2 > general["eval/log_loss"]
    assert general["eval/cycles"] == number["eval/cycles"] == 20


def test_where_there_is_no_cycle_both_learn_as_much(model: Path, tmp_path: Path) -> None:
    general, number = (taught(kind, in_order(), model, tmp_path) for kind in ("gpm", "bradley_terry"))
    assert number["eval/accuracy"] >= 0.95
    assert general["eval/accuracy"] == pytest.approx(number["eval/accuracy"], abs=0.02)
    assert "eval/cycles" not in general


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampler.draws=[{name: first, n: 2, who: policy}]", "the sampler asks policy. Try who=dataset"),
        ("~prompts.columns.candidates.second", "sampler.draws.1.candidate must be an answer that every"),
        ("learner.head.outputs=-1", "learner.head.outputs must be >= 0, got -1"),
        ("evaluate.by=chance", "evaluate.by must be answers or agreement, got 'chance'"),
    ],
)
def test_a_mistake_is_told_before_the_run(
    override: str, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-reward", *overrides(model, short_and_long(), tmp_path), override]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_held_out_prompts_from_elsewhere_bring_no_answers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apart = tmp_path / "apart.jsonl"
    apart.write_text(json.dumps({"prompt": "Why?", "chosen": "a", "rejected": "b"}) + "\n")
    asked = overrides(model, short_and_long(), tmp_path)
    assert main(["train-reward", *asked, f"prompts.held_out_path={apart}"]) == 2
    assert "Leave prompts.held_out_path out" in capsys.readouterr().err


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-reward", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("rlhf-flow train-reward")
    assert all(len(line) <= 120 for line in page.splitlines())
