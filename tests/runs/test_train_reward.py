"""`rlhf-flow train-reward`: from a file of preferences to a judge, by the same loop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.scorer.models.gpm import GPM
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.specs import Place
from rlhf_flow.storage import parquet as rows
from rlhf_flow.weights.source import Checkpoint
from tests.support import tiny

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("kind", "judge"), [("bradley_terry", RewardModel), ("gpm", GPM), ("pairwise", PreferenceModel)]
)
def test_what_is_trained_is_a_judge_that_says_the_same(
    kind: str, judge: type[RewardModel] | type[GPM] | type[PreferenceModel], model: Path, tmp_path: Path
) -> None:
    asked = overrides(model, short_and_long(), tmp_path, reward=kind, **{"prompts.max_tokens": 255})
    assert main(["train-reward", *asked]) == 0
    run = tmp_path / "run"
    start, _, last = metrics(run)
    assert last["eval/log_loss"] < start["eval/log_loss"]
    assert last["eval/pairs"] == 8 and last["train/pairs"] == 16
    assert last["eval/longer_wins"] == 0 and last["eval/always_first"] == 1
    assert ("eval/order_consistency" in last) == (kind == "pairwise")
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


def test_a_comparison_may_have_any_label_and_is_cut_to_fit(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [row | {"p": 0.9, "rejected": 40 * str(row["rejected"])} for row in short_and_long()]
    keys = {"prompts.max_tokens": 200, "prompts.too_long": "cut", "scorer.preference": "p", "rounds": 1}
    assert main(["train-reward", *overrides(model, data, tmp_path, reward="pairwise", **keys)]) == 0
    assert "prompts: 40 too long cut, 40 rows, 64 training, 16 held out" in capsys.readouterr().out
    run = tmp_path / "run"
    evaluation = run / "rounds" / "00001" / "evaluation"
    answers = rows.to_rollouts(pq.read_table(evaluation / "answers.parquet"))
    judge = PreferenceModel(str(run / "rounds" / "00001" / "policy"), max_tokens=200).open(Place())
    wins = judge.score(answers).wins[:, 0, 1].astype(np.float64)
    log_loss = -(0.9 * np.log(wins) + 0.1 * np.log(1 - wins)).mean()
    assert log_loss == pytest.approx(metrics(run)[-1]["eval/log_loss"], abs=1e-4)


def test_ratings_and_preferences_are_learned_in_one_run(model: Path, tmp_path: Path) -> None:
    data = [row | {"strength": 2, "first_rating": 9, "second_rating": 7} for row in short_and_long()]
    asked = overrides(model, data, tmp_path, reward="rated_preference", **{"learner.training.optimizer.lr": 3e-3})
    assert main(["train-reward", *asked, "learner.training.epochs=4"]) == 0
    _, first, last = metrics(tmp_path / "run")
    assert first["train/rating_error"] > 10  # rewards begin at about 0, and ratings of 9 and 7 are no win rates
    assert last["train/rating_error"] < 0.8 * first["train/rating_error"]


def test_a_run_folder_is_told_the_path_of_its_reward_model(tmp_path: Path) -> None:
    policy = tmp_path / "rounds/00002/policy"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"scorer.path={tmp_path}: it is a run folder. Fix: scorer.path={policy}"):
        RewardModel(str(tmp_path)).check()


def test_a_reward_model_is_trained_on(model: Path, tmp_path: Path) -> None:
    asked = overrides(model, short_and_long(), tmp_path, rounds=1)
    assert main(["train-reward", *asked]) == 0
    trained = tmp_path / "run" / "rounds" / "00001" / "policy"
    assert main(["train-reward", *asked, f"model.path={trained}", f"run_dir={tmp_path / 'on'}"]) == 0
    assert metrics(tmp_path / "on")[0]["eval/log_loss"] == metrics(tmp_path / "run")[1]["eval/log_loss"]
    assert Checkpoint(trained).load()["score.weight"].shape == (1, 32)
    assert "lm_head.weight" in Checkpoint(model).load()


def taught(kind: str, data: list[dict[str, object]], model: Path, folder: Path) -> dict[str, float]:
    """The metrics on held-out prompts, after one round on 60 others."""
    held_out = len(data) - 180
    keys = {
        "reward": kind,
        "rounds": 1,
        "prompts.batch": 360 if kind == "pairwise" else 180,
        "prompts.held_out": held_out,
        "prompts.max_tokens": 255,
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


@pytest.mark.soak
def test_only_judges_of_pairs_learn_a_cycle(model: Path, tmp_path: Path) -> None:
    general, number, asked = (taught(kind, around(), model, tmp_path) for kind in ("gpm", "bradley_terry", "pairwise"))
    for judge in (general, asked):
        assert judge["eval/accuracy"] >= 0.95 and judge["eval/cycle_accuracy"] >= 0.9
    assert asked["eval/order_consistency"] > 0.7  # it has to learn that the order says nothing; the others cannot err
    assert number["eval/accuracy"] <= 0.65 and number["eval/cycle_accuracy"] == 0
    assert number["eval/log_loss"] > 0.69 > 0.2 > general["eval/log_loss"]
    assert general["eval/cycles"] == number["eval/cycles"] == 20


def test_where_there_is_no_cycle_both_learn_as_much(model: Path, tmp_path: Path) -> None:
    general, number = (taught(kind, in_order(100), model, tmp_path) for kind in ("gpm", "bradley_terry"))
    assert number["eval/pairs"] == 120  # of which one is less than a point
    assert number["eval/accuracy"] >= 0.95
    assert general["eval/accuracy"] == pytest.approx(number["eval/accuracy"], abs=0.01)
    assert "eval/cycles" not in general


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "sampler.draws=[{name: first, n: 2, policy: policy, max_tokens: 8}]",
            "the sampler samples from policy. Fix: sampler.draws.0.policy=dataset",
        ),
        ("~prompts.columns.candidates.second", "sampler.draws.1.candidate must be an answer that every"),
        ("learner.head.outputs=-1", "learner.head.outputs must be >= 0, got -1"),
        (
            "objective=dpo",
            "objective=dpo reads the log-probs of a policy, and the learner has a head with 1 outputs. Fix",
        ),
        ("learner.head.outputs=2", "objective=bt reads one number per response, and the learner has a head with 2"),
        ("learner.head.outputs=0", "no head: it reads the log-probs of a policy. Fix: learner.head.outputs=1."),
        ("reward=rated_preference selector.worth=wins", "selector.worth is wins. Fix: selector.worth=utility."),
        ("objective=dpo learner.head.outputs=0", "all its tokens. Fix: reward=pairwise"),
        ("reward=pairwise prompts.max_tokens=9", "prompts.max_tokens must be >= "),
        ("evaluate.by=chance", "evaluate.by must be answers, likelihood (of rlhf-flow sft) or agreement"),
    ],
)
def test_a_mistake_is_told_before_the_run(
    override: str, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-reward", *overrides(model, short_and_long(), tmp_path), *_apart(override)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def _apart(overrides: str) -> list[str]:
    return [overrides] if "[" in overrides else overrides.split()


def test_held_out_pairs_may_come_from_elsewhere(model: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart.jsonl"
    apart.write_text(json.dumps({"prompt": "Why?", "chosen": "a", "rejected": "bcd"}) + "\n")
    asked = overrides(model, short_and_long(), tmp_path, rounds=1)
    assert main(["train-reward", *asked, f"prompts.held_out_path={apart}"]) == 0
    last = metrics(tmp_path / "run")[-1]
    assert last["eval/pairs"] == 1 and last["eval/longer_wins"] == 0


def test_held_out_prompts_without_answers_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apart = tmp_path / "apart.jsonl"
    apart.write_text(json.dumps({"prompt": "Why?", "chosen": "a"}) + "\n")
    asked = overrides(model, short_and_long(), tmp_path)
    assert main(["train-reward", *asked, f"prompts.held_out_path={apart}"]) == 2
    assert "such as 'held-out-row-1', lack some" in capsys.readouterr().err


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-reward", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("rlhf-flow train-reward")
    assert all(len(line) <= 120 for line in page.splitlines())
