"""`rlhf-flow eval` on a finished run: comparisons, exports, labelled pairs and the curve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.cli import main
from rlhf_flow.storage.run_policies import named_policy

pytestmark = pytest.mark.slow


def evaluated(out: Path, *arguments: object) -> Any:
    """What eval.json holds after `rlhf-flow eval` with the arguments."""
    assert main.main(["eval", *map(str, arguments), "--out", str(out)]) == main.DONE
    return json.loads((out / "eval.json").read_text())


def lengths(run: Path, round: int) -> np.ndarray:
    """Characters of the recorded held-out answers: the judge prefers fewer."""
    texts = pq.read_table(run / f"rounds/{round:05d}/evaluation/answers.parquet")["text"].to_pylist()
    return np.array([len(text) for text in texts])


def test_recorded_answers_of_all_rounds_are_compared(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of rounds whose weights are gone; the win rates are those of the answers' lengths."""
    run = shutil.copytree(finished, tmp_path / "run-seed=1")
    shutil.rmtree(run / "rounds/00001/policy")
    (written,) = evaluated(tmp_path / "out", f"{run}@all")["comparisons"].values()
    assert "answering" not in capsys.readouterr().out
    names = [f"{run}@{round}" for round in range(3)]
    assert [one["name"] for one in written["policies"]] == names
    rates = {(one["policy"], one["opponent"]): one["win_rate"] for one in written["win_rates"]}
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            if i != j:
                expected = (1 + np.sign(lengths(run, j) - lengths(run, i))) / 2
                assert rates[one, other] == pytest.approx(expected.mean())
    verdicts = pq.read_table(tmp_path / "out/eval.parquet")
    assert len(verdicts) == 3 * len(lengths(run, 0))
    assert main.main(["eval", f"{run}@1", f"{run}@0", "answers.temperature=0"]) == main.MISTAKEN
    assert "removed the weights" in capsys.readouterr().err


def test_a_run_whose_start_is_best_is_its_last_round_as_in_export_and_chat(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    best = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps(best | {"round": 0, "policy": None}))
    chosen = named_policy(str(run))
    assert chosen is not None
    for number, word in enumerate((run, f"{run}@last")):
        (written,) = evaluated(tmp_path / f"out{number}", f"{run}@0", word)["comparisons"].values()
        assert [one["name"] for one in written["policies"]] == [f"{run}@0", f"{run}@{chosen.round}"]


def test_other_prompts_are_answered_once(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Tell me about cats."}\n{"prompt": "Tell me about 2 cats."}\n')
    command = ("--prompts", prompts, "answers.temperature=0")
    evaluated(tmp_path / "out", f"{finished}@0", finished.parent / "model", *command)
    first = capsys.readouterr().out
    written = evaluated(tmp_path / "out", f"{finished}@0", finished.parent / "model", *command)
    assert first.count("answering 2 prompts") == 2
    assert "answering" not in capsys.readouterr().out
    ((one, _),) = [comparison["win_rates"] for comparison in written["comparisons"].values()]
    assert one["win_rate"] == 0.5  # both are the start, so greedy answers are equal


def test_a_second_turn_follows_the_reply_to_the_first(finished: Path, tmp_path: Path) -> None:
    questions = tmp_path / "question.jsonl"
    turns = ["Tell me about cats.", "Now tell me about 3 cats."]
    rows = [{"question_id": 81, "turns": turns}, {"question_id": 82, "turns": turns[:1]}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", f"{finished}@0", "--prompts", questions, "--export", "mt_bench", "--out", tmp_path]
    assert main.main(list(map(str, command))) == main.DONE
    (answers,) = (tmp_path / "mt_bench/model_answer").iterdir()
    one, other = map(json.loads, answers.read_text(encoding="utf-8").split("\n")[:-1])
    assert (one["question_id"], one["model_id"], len(one["choices"][0]["turns"])) == (81, answers.stem, 2)
    assert (other["question_id"], len(other["choices"][0]["turns"])) == (82, 1)
    (second,) = (tmp_path / "questions").glob("*-2.jsonl")
    chat = json.loads(second.read_text(encoding="utf-8"))["prompt"]
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]
    assert chat[1]["content"] == one["choices"][0]["turns"][0].strip()


@pytest.mark.parametrize("form", ["alpaca_eval", "arena_hard"])
def test_held_out_answers_are_exported(form: str, finished: Path, tmp_path: Path) -> None:
    assert main.main(["eval", f"{finished}@1", "--export", form, "--out", str(tmp_path)]) == main.DONE
    table = pq.read_table(finished / "rounds/00001/evaluation/answers.parquet")
    (path,) = (file for file in (tmp_path / form).rglob("*") if file.is_file())
    text = path.read_text(encoding="utf-8")
    if form == "alpaca_eval":
        rows = json.loads(text)
        assert [row["output"] for row in rows] == table["text"].to_pylist()
        assert {row["generator"] for row in rows} == {path.stem}
    else:
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        assert [row["messages"][-1]["content"]["answer"] for row in rows] == table["text"].to_pylist()
        assert [row["uid"] for row in rows] == table["prompt"].to_pylist()


def test_pairs_are_judged_by_the_scorer_of_the_run(finished: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "a", "chosen": "x", "rejected": "long", "subset": "easy"},
        {"prompt": "b", "chosen": "long", "rejected": "x", "subset": "hard"},
        {"prompt": "c", "chosen": "ab", "rejected": "cd", "subset": "hard"},
        {"prompt": "d", "chosen": ["xx"], "rejected": ["long", "x", "longer"], "subset": "several"},
        {"prompt": "e", "chosen": ["x"], "rejected": ["long", "xx"], "subset": "several"},
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = evaluated(tmp_path, finished, "--pairs", pairs)["preferences"].values()
    accuracy = {subset: row["accuracy"] for subset, row in found.items()}
    assert accuracy == pytest.approx({"easy": 1.0, "hard": 0.25, "several": 0.5, "all": 0.5})
    assert found["hard"]["accuracy_low"] < 0.25 < found["hard"]["accuracy_high"]


def test_the_curve_has_a_row_for_each_round(finished: Path, tmp_path: Path) -> None:
    (rows,) = evaluated(tmp_path, finished, "--curve")["overoptimization"].values()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    kl = {line["round"]: max(0.0, line.get("eval/kl", 0.0)) for line in lines}
    assert {row["round"]: row["sqrt_kl"] ** 2 for row in rows} == pytest.approx(kl)
    assert [row["sqrt_kl"] for row in rows] == sorted(row["sqrt_kl"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{run}@7", "{run}"], "neither the policy of round 7"),
        (["{run}@1"], "needs two policies"),
        (["{run}@1", "{run}@1"], "named twice"),
        (["{run}@all", "learner.training.optimizer.lr=1"], "reads only keys of"),
        (["{model}", "{model}"], "none of the policies is of a run with prompts. Fix: "),
        (["{model}", "runs/mien@3", "nothere"], "and there is no folder runs/mien@3 or nothere. Fix: "),
        (["--import", "alpaca", "x"], "expected a format"),
        (["--curve", "{model}"], "--curve reads"),
        (["{run}", "--curve", "seed=1"], "use no keys"),
    ],
)
def test_mistakes(
    arguments: list[str], problem: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(run=finished, model=finished.parent / "model") for word in arguments]
    assert main.main(["eval", "--out", str(tmp_path), *given]) == main.MISTAKEN
    error = capsys.readouterr().err
    assert problem in error
    assert "Fix:" in error
