"""Judgements of public benchmarks become the win rates that the benchmarks report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.evaluation.judgements import read_judgements
from rlhf_flow.evaluation.matrix import Matrix


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rate(matrix: Matrix, policy: str, opponent: str) -> float:
    found = matrix.rate(matrix.names.index(policy), matrix.names.index(opponent))
    assert found is not None
    return found[0]


def test_alpaca_eval_keeps_weighted_preferences(tmp_path: Path) -> None:
    """0 is a tie of old annotators; null is left out."""
    rows: list[dict[str, object]] = [
        {
            "instruction": str(at),
            "generator_1": "gpt",
            "generator_2": "mine",
            "annotator": "w",
            "preference": preference,
        }
        for at, preference in enumerate((1.9, 1, 0, None))
    ]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    (matrix,) = read_judgements("alpaca_eval", [path])
    assert (matrix.by, len(matrix.prompts)) == ("alpaca_eval w", 3)
    assert rate(matrix, "mine", "gpt") == pytest.approx((0.9 + 0 + 0.5) / 3)
    assert rate(matrix, "gpt", "mine") == pytest.approx(1 - (0.9 + 0 + 0.5) / 3)


def test_mt_bench_ties_winners_that_depend_on_the_order(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question_id": question, "model_1": "mine", "model_2": "gpt", "g1_winner": one, "g2_winner": other,
         "judge": ["gpt-4", "pair-v2"], "turn": turn}
        for question, turn, one, other in [
            (81, 1, "model_1", "model_1"),
            (81, 2, "model_1", "model_2"),
            (82, 1, "tie", "tie"),
            (83, 1, "model_2", "model_2"),
            (84, 1, "error", "model_1"),
        ]
    ]  # fmt: skip
    (matrix,) = read_judgements("mt_bench", [written(tmp_path / "pair.jsonl", rows)])
    assert rate(matrix, "mine", "gpt") == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)


def test_mt_bench_grades_are_compared_turn_by_turn(tmp_path: Path) -> None:
    """A grade of -1 could not be read."""
    grades = {("a", 81): 7, ("b", 81): 5, ("c", 81): 5, ("a", 82): -1, ("b", 82): 9, ("c", 82): 3}
    rows: list[dict[str, object]] = [
        {"question_id": question, "model": model, "judge": ["gpt-4", "single-v1"], "score": grade, "turn": 1}
        for (model, question), grade in grades.items()
    ]
    (matrix,) = read_judgements("mt_bench", [written(tmp_path / "single.jsonl", rows)])
    assert rate(matrix, "a", "b") == 1.0
    assert rate(matrix, "b", "c") == 0.75


@pytest.mark.parametrize("id", ["question_id", "uid"])
def test_arena_hard_counts_decisive_verdicts_three_times(id: str, tmp_path: Path) -> None:
    """A is the baseline in the first game and the model in the second; a game without a label is left out."""
    rows: list[dict[str, object]] = [
        {id: "q", "judge": "gpt-4.1", "model": "mine", "baseline": "o3", "games": [{"score": one}, {"score": other}]}
        for one, other in [("A>>B", "A>B")]
    ] + [{id: "r", "judge": "gpt-4.1", "model": "mine", "baseline": "o3", "games": [{"score": "A<B"}, None]}]
    (matrix,) = read_judgements("arena_hard", [written(tmp_path / "judged.jsonl", rows)])
    assert rate(matrix, "mine", "o3") == pytest.approx((3 * 0 + 1 + 1) / 5)


def test_each_judge_has_a_comparison(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"uid": "q", "judge": judge, "model": "mine", "games": [{"score": label}]}
        for judge, label in (("one", "B>A"), ("two", "A>B"))
    ]
    found = read_judgements("arena_hard", [written(tmp_path / "judged.jsonl", rows)])
    assert [(one.by, rate(one, "mine", "baseline")) for one in found] == [
        ("arena_hard one", 1.0),
        ("arena_hard two", 0.0),
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"instruction": "x"}], "expected judgements"),
        ([{"instruction": "x", "generator_1": "a", "generator_2": "b", "preference": None}], "no verdicts"),
    ],
)
def test_other_files_are_refused(rows: list[dict[str, object]], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        read_judgements("alpaca_eval", [written(tmp_path / "x.jsonl", rows)])
