"""The notebooks of the documentation, cell by cell, and what a run in one of them has left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import rlhf_flow as rf
from rlhf_flow.cli.main import main
from tests.support import tiny

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[1] / "docs/notebooks"
KEYS: dict[str, object] = {"observe.console": False}


def cells(name: str) -> list[str]:
    found = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def executed(name: str) -> dict[str, Any]:
    """The names that the cells define, one after another as a kernel does."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(name), start=1):
        exec(compile(cell, f"{name}, cell {number}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MODEL", str(tiny.policy(folder / "model")))
        return executed("first_run")


def test_there_is_a_test_for_each_notebook() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == ["first_run", "own_objective"]


def test_the_metrics_are_those_of_the_rounds(first_run: dict[str, Any]) -> None:
    metrics = first_run["run"].metrics
    written = [json.loads(line) for line in (first_run["run"].folder / "metrics.jsonl").read_text().splitlines()]
    assert list(metrics.index) == [0, 1, 2, 3]
    assert metrics["eval/win_rate"].tolist() == [line["eval/win_rate"] for line in written]


def test_the_pairs_are_those_that_the_reward_made(first_run: dict[str, Any]) -> None:
    run = first_run["run"]
    pairs = run.pairs(1)
    assert len(pairs) == run.metrics.loc[1, "pairs/used"]
    assert all(-len(pair.chosen) > -len(pair.rejected) for pair in pairs.itertuples())
    assert {pair.prompt[-1]["content"] for pair in pairs.itertuples()} <= set(first_run["prompts"])
    with pytest.raises(ValueError, match=r"round=9: .* has no pairs of it. Fix: a round from 1 to 3"):
        run.pairs(9)


def test_the_policy_is_the_newest(first_run: dict[str, Any]) -> None:
    run = first_run["run"]
    assert run.policy == run.folder / "rounds/00003/policy"
    assert repr(run).endswith("notebook', 3 of 2 rounds)") and repr(first_run["later"]).endswith("3 of 3 rounds)")


def test_a_run_that_is_stopped_in_its_loop_can_be_started_at_once(first_run: dict[str, Any]) -> None:
    run = rf.resume(first_run["run"].folder, reward=first_run["short"], rounds=5, keys=KEYS)
    for record in run:
        assert record.round == 4
        run.stop()
    run.prepare().ledger.close()
    assert os.path.lexists(run.folder / "rounds/00004/record.json")
    assert not (run.folder / "rounds/00005").exists()


def test_a_resume_with_another_function_is_refused(
    first_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def short(prompt: object, answer: str, meta: object) -> int:
        return len(answer)

    folder = first_run["run"].folder
    with pytest.raises(ValueError, match=r"another configuration: scorer.sha256"):
        list(rf.resume(folder, reward=short, rounds=9))
    rf.run(model="m", prompts="p", reward="r")  # a run of no function forgets those of others
    assert main(["resume", str(folder), "rounds=9"]) == 2
    assert "notebook.short was defined in a notebook" in capsys.readouterr().err


def test_own_objective() -> None:
    names = executed("own_objective")
    assert len(names["checks"]) > len(names["rf"].verify(names["Squared"]()))
