"""A judge that is trained while the policy is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.system.files import read_json
from tests.runs.test_train_reward import overrides as to_train
from tests.runs.test_train_reward import short_and_long
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module", params=["bradley_terry", pytest.param("gpm", marks=pytest.mark.soak)])
def judge(policy: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A judge that has learned next to nothing, and the scorer that it is."""
    folder = tmp_path_factory.mktemp(request.param)
    keys = {"rounds": 1, "reward": request.param, "prompts.batch": 4, "learner.training.optimizer.lr": 1e-6}
    assert main(["train-reward", *to_train(policy, short_and_long(16), folder, **keys)]) == 0
    scorer = {"bradley_terry": "reward_model", "gpm": "gpm"}[request.param]
    return scorer, folder / "run" / "rounds" / "00001" / "policy"


def overrides(policy: Path, judge: tuple[str, Path], folder: Path, **keys: object) -> list[str]:
    """Three rounds; whoever labels likes long answers, and the judge does not yet."""
    scorer, path = judge
    asked = tiny.overrides(policy, tiny.prompts(folder / "prompts.jsonl"), folder / "run", rounds=3)
    asked = [one for one in asked if not one.startswith("scorer")]
    values: dict[str, object] = {
        "scorer": scorer,
        "scorer.path": path,
        "prompts.batch": 16,
        "sampler.draws.0.n": 8,
        "refresh.every": 1,
        "refresh.prompts": 12,
        "refresh.training.batch": 32,
        "refresh.training.micro_batch": 32,
        "refresh.training.epochs": 4,
        "refresh.training.optimizer.lr": 3e-3,
        "scorer@evaluate.scorer": "rule",
        "scorer@refresh.scorer": "rule",
        "objective@refresh.objective": {"reward_model": "bt", "gpm": "general_preference"}[scorer],
        "evaluate.scorer.function": "tests.support.tiny.shorter",
        "refresh.scorer.function": "tests.stages.test_update_reward.longer",
    }
    return [*asked, *(f"{key}={value}" for key, value in (values | keys).items())]


def longer(prompt: object, answer: str, meta: object) -> float:
    return float(len(answer))


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_judge_comes_to_agree_with_who_labels(policy: Path, judge: tuple[str, Path], tmp_path: Path) -> None:
    assert main(["run", *overrides(policy, judge, tmp_path)]) == 0
    _, first, second, third = metrics(tmp_path / "run")
    assert first["label/pairs"] > 20 and first["refresh/steps"] > 0
    assert second["refresh/pairs"] > first["refresh/pairs"]  # the labels of both rounds
    assert third["label/agreement"] > max(0.55, first["label/agreement"] + 0.1)  # with labels it has not seen yet
    records = [read_json(tmp_path / f"run/rounds/{round:05d}/record.json") for round in (1, 2, 3)]
    refreshed = [read_json(tmp_path / f"run/rounds/{round:05d}/stages/refresh.json") for round in (1, 2)]
    assert [record["plan"]["scorer"] for record in records[1:]] == [entry["facts"]["sha256"] for entry in refreshed]
    assert len({record["plan"]["scorer"] for record in records}) == 3
    kept = [(tmp_path / f"run/rounds/{round:05d}/scorer").exists() for round in (1, 2, 3)]
    assert kept == [False, False, True]


def test_a_run_in_two_starts_trains_the_same_judge(policy: Path, judge: tuple[str, Path], tmp_path: Path) -> None:
    short = {"refresh.every": 2, "refresh.prompts": 4, "refresh.training.epochs": 1, "prompts.batch": 4}
    asked = overrides(policy, judge, tmp_path, **short)
    for run_dir, rounds in (("in two", 2), ("in two", 3), ("straight", 3)):
        assert main(["run", *asked, f"run_dir={tmp_path / run_dir}", f"rounds={rounds}"]) == 0
    for path in ("rounds/00002/scorer/model.safetensors", "rounds/00003/policy/model.safetensors"):
        one, other = ((tmp_path / run_dir / path).read_bytes() for run_dir in ("in two", "straight"))
        assert one == other
    assert metrics(tmp_path / "in two")[1].get("refresh/steps") is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("~scorer@refresh.scorer", "refresh.scorer is not set. Fix: scorer@refresh.scorer="),
        ("~objective@refresh.objective", "refresh.objective is not set. Fix: objective@refresh.objective="),
        ("~scorer@evaluate.scorer", "Fix: a fixed evaluation scorer, scorer@evaluate.scorer="),
        ("objective@refresh.objective=dpo", "outputs from pairs alone, and this one reads logps"),
        ("refresh.every=0", "refresh.every must be >= 1"),
        ("refresh.prompts=0", "refresh.prompts must be >= 1"),
        ("scorer.format=plain", "which must be a model of rlhf-flow train-reward, with scorer.format=chat"),
    ],
)
def test_a_judge_that_cannot_be_trained_is_refused(
    override: str, said: str, policy: Path, judge: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = overrides(policy, judge, tmp_path)
    if override.startswith("~"):
        slot = override.partition("@")[2]
        asked = [one for one in asked if not one.startswith((override[1:], slot))]
        override = "seed=0"
    assert main(["run", *asked, override]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
