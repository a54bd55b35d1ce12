"""Recipes that learn from what the user gives: answers of a data set, or another policy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
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


GIVEN = {"triple_po": "gold", "chord": "expert", "dr_po": "chosen"}  # recipe -> the candidate that it reads


@pytest.mark.parametrize("recipe", sorted(GIVEN))
def test_answers_of_a_data_set_help_the_policy_to_its_own(
    recipe: str, model: Path, data_set: Path, tmp_path: Path
) -> None:
    keys = overrides(recipe, model, data_set, tmp_path / "run")
    assert main(["run", *keys, f"prompts.columns.candidates.{GIVEN[recipe]}=chosen"]) == 0
    first, *_, last = metrics(tmp_path / "run")[1:]
    assert first["train/loss"] != last["train/loss"]
    if recipe != "dr_po":
        nll = "train/expert_nll" if recipe == "chord" else "train/nll"
        assert last[nll] < first[nll]
        return
    drawn = answers(tmp_path / "run", 2)
    assert any(len(row["prompt_tokens"]) > len(row["asked_tokens"]) for row in drawn), "answers continue the candidate"


def answers(run: Path, round: int) -> list[dict[str, object]]:
    paths = sorted((run / f"rounds/{round:05}/responses").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_policy_learns_to_improve_its_answers(model: Path, data_set: Path, tmp_path: Path) -> None:
    keys = overrides("srpo", model, data_set, tmp_path / "run", scorer="recorded", **{"prompts.max_tokens": 160})
    keys = [key for key in keys if not key.startswith("scorer")]
    assert main(["run", *keys, *CANDIDATES, *RECORDED, *JUDGE, "evaluate.proxy=false"]) == 0
    _, first, last = metrics(tmp_path / "run")
    assert last["train/loss"] < first["train/loss"]
    assert last["train/improvement"] > 0 and last["train/margin"] > 0


def test_pairs_of_a_data_set_join_those_of_each_round(model: Path, data_set: Path, tmp_path: Path) -> None:
    given = ["prompts@given.prompts=jsonl", f"given.prompts.path={data_set}", "given.share=1.0"]
    columns = [f"given.prompts.columns.candidates.{name}={name}" for name in ("chosen", "rejected")]
    keys = overrides("online_dpo", model, data_set, tmp_path / "run")
    assert main(["run", *keys, *given, *columns]) == 0
    for round in metrics(tmp_path / "run")[1:]:
        assert round["given/used"] == round["pairs/used"] > 0
        assert round["train/pairs"] == 2 * round["pairs/used"]
    assert main(["run", *overrides("online_dpo", model, data_set, tmp_path / "other"), *given]) == 2


def test_labels_reach_the_next_round_of_a_run_and_leave_the_rounds_that_have_their_pairs(
    model: Path, data_set: Path, tmp_path: Path
) -> None:
    run, labels = tmp_path / "run", tmp_path / "labels.jsonl"
    small = {"rounds": 1, "prompts.batch": 8, "answers.max_tokens": 12}
    assert main(["run", *overrides("online_dpo", model, data_set, run, **small)]) == 0
    rows = data_set.read_text().splitlines(keepends=True)
    labels.write_text("".join(rows[:20]))
    given = ["prompts@given.prompts=jsonl", f"given.prompts.path={labels}", "given.share=1.0"]
    columns = [f"given.prompts.columns.candidates.{name}={name}" for name in ("chosen", "rejected")]
    assert main(["resume", str(run), "rounds=2", *given, *columns]) == 0
    _, first, second = metrics(run)
    assert "given/used" not in first and second["given/used"] > 0

    labels.write_text("".join(rows))
    killed = tmp_path / "killed"  # as `run` would be after a kill once round 2 had its pairs
    shutil.copytree(run, killed)
    (killed / "final.json").unlink()
    (killed / "rounds/00002/record.json").unlink()
    for stage in (killed / "rounds/00002/stages").glob("*.json"):
        if not stage.name.startswith(("sample", "score", "select")):
            stage.unlink()
    assert main(["resume", str(killed), "rounds=3"]) == 0
    assert policy(killed, 2) == policy(run, 2)
    hashes = [json.loads((killed / f"rounds/0000{round}/stages/select.json").read_text())["facts"] for round in (2, 3)]
    assert hashes[0]["given/sha256"] != hashes[1]["given/sha256"]


def policy(run: Path, round: int) -> object:
    return json.loads((run / f"rounds/{round:05}/record.json").read_text())["policy"]


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
