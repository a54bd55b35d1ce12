"""Recipes that learn from what the user gives: answers of a data set, or another policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from tests.support import tiny

pytestmark = pytest.mark.slow
BETTER, WORSE = "Aa ee oo ia ou.", "Cats nap bst prr."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("given") / "model")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"Tell me about {i} cats.", "chosen": BETTER, "rejected": WORSE} for i in range(40)]
    path = tmp_path_factory.mktemp("given") / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def overrides(recipe: str, model: Path, asked: Path, folder: Path, **keys: object) -> list[str]:
    values: dict[str, object] = {
        "algorithm": recipe,
        "rounds": 2,
        "prompts.batch": 16,
        "answers.max_tokens": 32,
        "learner.training.batch": 8,
        "learner.training.optimizer.lr": 3e-3,
        "observe.console": False,
    }
    return tiny.overrides(model, asked, folder, **values | keys)


CANDIDATES = ("prompts.columns.candidates.chosen=chosen", "prompts.columns.candidates.rejected=rejected")
RECORDED = ("scorer=recorded", "scorer.first=chosen", "scorer.second=rejected")
JUDGE = ("scorer@evaluate.scorer=rule", "evaluate.scorer.function=tests.support.tiny.shorter")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", ["offline_dpo", "hypo"])
def test_the_pairs_of_a_data_set_are_learned(recipe: str, model: Path, data_set: Path, tmp_path: Path) -> None:
    keys = overrides(recipe, model, data_set, tmp_path / "run", scorer="recorded")
    keys = [key for key in keys if not key.startswith("scorer")]
    assert main(["run", *keys, *CANDIDATES, *RECORDED, *JUDGE, "evaluate.proxy=false"]) == 0
    _, first, last = metrics(tmp_path / "run")
    assert last["train/accuracy"] > first["train/accuracy"] - 1e-9 and last["train/margin"] > first["train/margin"]
    assert ("train/kl" in last) == (recipe == "hypo")


def test_another_policy_guides_the_tokens(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = tiny.prompts(tmp_path / "prompts.jsonl", number=40)
    assert main(["run", *overrides("online_dpo", model, asked, tmp_path / "first")]) == 0
    guide = tmp_path / "first/rounds/00002/policy"
    keys = overrides("tgdpo", model, asked, tmp_path / "second")
    assert main(["run", *keys, f"anchors.policies={{reward_policy: {guide}}}"]) == 0
    anchors = sorted((tmp_path / "second/rounds/00001").glob("anchors/*"))
    assert any("reward_policy" in path.name for path in anchors)
    assert metrics(tmp_path / "second")[-1]["train/loss"] > 0
    capsys.readouterr()
    assert main(["run", *keys, "run_dir=" + str(tmp_path / "third")]) == 2
    assert "anchors.policies={reward_policy: <checkpoint>}" in capsys.readouterr().err
    assert main(["run", *keys, "run_dir=" + str(tmp_path / "third"), "anchors.policies={reward_policy: nowhere}"]) == 2
    assert "anchors.policies.reward_policy=nowhere is no folder of a checkpoint" in capsys.readouterr().err
