"""Evaluation on a world that can be computed by hand: who judges, on which answers, and what is not measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.parts import Evaluation
from rlhf_flow.types import Draw, Rollouts, Scored
from tests import toy

ONE = Draw(name="mine", n=1)


class Counting(toy.HigherIsBetter):
    """Counts the held-out answers that it is asked about."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, rollouts: Rollouts) -> Scored:
        if len(rollouts.prompts) == toy.PROMPTS:  # a round asks fewer
            self.asked += sum(map(len, rollouts.responses))
        return super().score(rollouts)


class Measuring(toy.HigherIsBetter):
    """Says of all answers together how many of them are the start's too."""

    def __init__(self, name: str = "kept") -> None:
        self.name = name

    def score(self, rollouts: Rollouts) -> Scored:
        kept = [group[0].text == group[-1].text for group in rollouts.responses]
        return replace(super().score(rollouts), measures={self.name: sum(kept) / len(kept)})


class OfPairs(toy.HigherIsBetter):
    """A judge that compares, and is asked nothing about an answer that stands alone."""

    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        n = scored.utility.shape[1]
        return replace(
            scored, utility=scored.wins.mean(-1), counts={"judge/queries": len(scored.wins) * n * (n - 1) // 2}
        )


def evaluated(root: Path, *, draw: Draw = ONE, **others: object) -> dict[str, float]:
    """The metrics of the one round of a toy run."""
    toy.run(root, rounds=1, **{"evaluation": Evaluation(toy.HigherIsBetter(), draw, every=1), **others})
    return json.loads((root / "metrics.jsonl").read_text().splitlines()[1])


def test_a_judge_that_training_uses_too_is_asked_once_and_is_no_proxy(tmp_path: Path) -> None:
    judge = Counting()
    metrics = evaluated(tmp_path, scorer=judge, evaluation=Evaluation(judge, ONE, every=1))
    assert judge.asked == 2 * 2 * toy.PROMPTS  # two rounds, and each answer beside the start's
    assert metrics["eval/queries"] == 2 * toy.PROMPTS
    assert "eval/reward" in metrics
    assert "eval/proxy" not in metrics


def test_the_judge_of_training_is_asked_too_where_it_is_another(tmp_path: Path) -> None:
    judge = Counting()
    metrics = evaluated(tmp_path, scorer=judge)
    assert judge.asked == 2 * toy.PROMPTS
    assert metrics["eval/queries"] == 3 * toy.PROMPTS
    assert metrics["eval/proxy"] == pytest.approx(metrics["eval/reward"])


def test_a_judge_of_pairs_is_no_proxy_for_it_is_asked_nothing(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, scorer=OfPairs())
    assert "eval/proxy" not in metrics
    assert metrics["eval/queries"] == 2 * toy.PROMPTS


class Cached(toy.HigherIsBetter):
    """A judge that was asked about all of it before."""

    def score(self, rollouts: Rollouts) -> Scored:
        return replace(super().score(rollouts), counts={"judge/queries": 0, "judge/cached": len(rollouts.prompts)})


class Silent(toy.HigherIsBetter):
    """A judge that abstains from everything."""

    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        n = scored.utility.shape[1]
        wins = np.where(np.eye(n, dtype=bool), np.float32(0.5), np.float32(np.nan)) + 0 * scored.wins
        return replace(scored, utility=scored.utility * np.float32(np.nan), wins=wins)


def test_a_judge_that_is_paid_once_still_is_a_proxy(tmp_path: Path) -> None:
    assert "eval/proxy" in evaluated(tmp_path, scorer=Cached())


@pytest.mark.filterwarnings("error")
def test_where_the_judge_says_nothing_nothing_is_measured(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, evaluation=Evaluation(Silent(), ONE, every=1))
    assert not {"eval/reward", "eval/win_rate"} & metrics.keys()
    assert "eval/length" in metrics


def test_what_the_judge_says_of_all_answers_together_is_measured(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, evaluation=Evaluation(Measuring(), ONE, every=1))
    answers = [pq.read_table(tmp_path / f"rounds/0000{at}/evaluation/answers.parquet")["text"] for at in (0, 1)]
    same = [start == new for start, new in zip(*(column.to_pylist() for column in answers), strict=True)]
    assert metrics["eval/kept"] == pytest.approx(sum(same) / toy.PROMPTS)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["eval/kept"] == 1
    assert not [key for key in evaluated(tmp_path / "without") if "kept" in key]


def test_a_measure_may_not_stand_in_for_one_of_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must not be called eval/length: .*Rename it"):
        evaluated(tmp_path, evaluation=Evaluation(Measuring("length"), ONE, every=1))


def test_the_draw_is_the_one_that_is_configured(tmp_path: Path) -> None:
    evaluated(tmp_path)
    answers = pq.read_table(tmp_path / "rounds/00001/evaluation/answers.parquet")
    assert answers["response"].to_pylist() == [f"1/mine/0/p{i}" for i in range(toy.PROMPTS)]


@pytest.mark.parametrize("cold", [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 3}])
def test_there_is_no_kl_where_the_answers_are_not_the_policy_s_own(tmp_path: Path, cold: dict[str, float]) -> None:
    assert "eval/kl" in evaluated(tmp_path / "own")
    metrics = evaluated(tmp_path / "cold", draw=Draw(name="mine", n=1, **cold))
    assert "eval/kl" not in metrics
    assert "eval/win_rate" in metrics
