"""Evaluation on a world that can be computed by hand: who judges, on which answers, and what is not measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.stages.context import Evaluation
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams, Scored
from tests.support import toy

pytestmark = pytest.mark.slow

ONE = SamplingParams(name="mine", n=1)


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
        return replace(super().score(rollouts), batch_metrics={self.name: sum(kept) / len(kept)})


class LowerIsBetter(toy.HigherIsBetter):
    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        return replace(scored, utility=-scored.utility, wins=1 - scored.wins)


class OfPairs(toy.HigherIsBetter):
    """A judge that compares, and is asked nothing about an answer that stands alone."""

    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        n = scored.utility.shape[1]
        return replace(
            scored, utility=scored.wins.mean(-1), counts={"judge/queries": len(scored.wins) * n * (n - 1) // 2}
        )


def evaluated(root: Path, *, draw: SamplingParams = ONE, **others: object) -> dict[str, float]:
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
    assert judge.asked == 2 * 2 * toy.PROMPTS
    assert metrics["eval/queries"] == 4 * toy.PROMPTS
    assert metrics["eval/proxy"] == pytest.approx(metrics["eval/reward"])


def test_judges_who_agree_have_no_gap(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path)
    for end in ("", "_low", "_high"):
        assert metrics[f"eval/proxy_win_rate{end}"] == metrics[f"eval/win_rate{end}"]
    assert metrics["eval/proxy_gap"] == 0
    assert metrics["eval/proxy_gap_low"] == pytest.approx(-metrics["eval/proxy_gap_high"])


def test_what_only_the_judge_of_training_sees_is_the_gap(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, evaluation=Evaluation(LowerIsBetter(), ONE, every=1))
    assert metrics["eval/proxy_win_rate"] == pytest.approx(1 - metrics["eval/win_rate"])
    assert metrics["eval/proxy_gap"] == pytest.approx(1 - 2 * metrics["eval/win_rate"])
    assert metrics["eval/proxy_gap_low"] <= metrics["eval/proxy_gap"] <= metrics["eval/proxy_gap_high"]


def test_a_judge_of_pairs_is_a_proxy_too(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, scorer=OfPairs())
    assert metrics["eval/proxy_win_rate"] == metrics["eval/win_rate"]
    assert metrics["eval/queries"] == 3 * toy.PROMPTS


def test_the_judge_of_training_is_left_in_peace_where_that_is_asked_for(tmp_path: Path) -> None:
    judge = Counting()
    metrics = evaluated(tmp_path, scorer=judge, evaluation=Evaluation(toy.HigherIsBetter(), ONE, 1, asks_proxy=False))
    assert judge.asked == 0
    assert metrics["eval/queries"] == 2 * toy.PROMPTS
    assert not [key for key in metrics if "proxy" in key]


class Stammering(toy.Engine):
    """After the start, it says two tokens four times over to held-out prompts; a round asks fewer."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        said = super().generate(prompts, policy, draw, round=round, seed=seed)
        if round == 0 or len(prompts) < toy.PROMPTS:
            return said
        tokens = np.array([0, 1] * 4, dtype=np.int32)
        groups = [tuple(replace(one, tokens=tokens) for one in group) for group in said.responses]
        return replace(said, responses=tuple(groups))


def test_what_an_answer_says_again_is_measured(tmp_path: Path) -> None:
    """Of the five 4-grams of 0 1 0 1 0 1 0 1 two are different."""
    metrics = evaluated(tmp_path, engine=Stammering())
    assert metrics["eval/repetition"] == pytest.approx(3 / 5)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["eval/repetition"] == 0
    assert metrics["alarm/repetition_rise"] == 1


@pytest.mark.parametrize(("judge", "agree"), [(toy.HigherIsBetter, 1.0), (LowerIsBetter, 0.0)])
def test_how_often_both_judges_prefer_the_same_answer_is_measured(
    tmp_path: Path, judge: type[toy.HigherIsBetter], agree: float
) -> None:
    metrics = evaluated(tmp_path, evaluation=Evaluation(judge(), ONE, every=1))
    answers = [pq.read_table(tmp_path / f"rounds/0000{at}/evaluation/answers.parquet")["text"] for at in (0, 1)]
    same = [start == new for start, new in zip(*(column.to_pylist() for column in answers), strict=True)]
    tied = sum(same) / len(same)
    assert metrics["eval/judges_agree"] == pytest.approx(tied / 2 + (1 - tied) * agree)
    assert metrics["eval/judges_agree_low"] <= metrics["eval/judges_agree"] <= metrics["eval/judges_agree_high"]


class Silent(toy.HigherIsBetter):
    """A judge that abstains from everything."""

    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        n = scored.utility.shape[1]
        wins = np.where(np.eye(n, dtype=bool), np.float32(0.5), np.float32(np.nan)) + 0 * scored.wins
        return replace(scored, utility=scored.utility * np.float32(np.nan), wins=wins)


@pytest.mark.filterwarnings("error")
def test_where_the_judge_says_nothing_nothing_is_measured(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, evaluation=Evaluation(Silent(), ONE, every=1))
    assert not {"eval/reward", "eval/win_rate", "eval/proxy_gap", "eval/win_rate_length_controlled"} & metrics.keys()
    assert "eval/proxy_win_rate" in metrics
    assert "eval/length" in metrics


def test_what_the_judge_says_of_all_answers_together_is_measured(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, evaluation=Evaluation(Measuring(), ONE, every=1))
    answers = [pq.read_table(tmp_path / f"rounds/0000{at}/evaluation/answers.parquet")["text"] for at in (0, 1)]
    same = [start == new for start, new in zip(*(column.to_pylist() for column in answers), strict=True)]
    assert metrics["eval/kept"] == pytest.approx(sum(same) / toy.PROMPTS)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["eval/kept"] == 1
    assert not [key for key in evaluated(tmp_path / "without") if "kept" in key]


def test_a_measure_may_not_stand_in_for_one_of_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must not be called eval/length, .*Fix: rename it"):
        evaluated(tmp_path, evaluation=Evaluation(Measuring("length"), ONE, every=1))


def test_the_draw_is_the_one_that_is_configured(tmp_path: Path) -> None:
    evaluated(tmp_path)
    answers = pq.read_table(tmp_path / "rounds/00001/evaluation/answers.parquet")
    assert answers["response"].to_pylist() == [f"1/mine/0/p{i}" for i in range(toy.PROMPTS)]


def test_the_spread_of_the_next_tokens_is_that_of_the_policy_of_the_round(tmp_path: Path) -> None:
    parts = toy.run(tmp_path, rounds=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line, logits in zip(lines, (toy.logits_of(toy.start()), parts.learner.logits), strict=True):
        logps = toy.log_softmax(logits)  # one token per answer, one answer per prompt
        assert line["eval/topk_entropy"] == pytest.approx(-(np.exp(logps) * logps).sum(-1).mean())
        assert line["eval/topk_mass"] == 1
    assert lines[1]["eval/topk_entropy"] < lines[0]["eval/topk_entropy"]


def test_length_is_told_as_a_multiple_of_the_start_s(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path)
    assert [metrics[f"eval/length_drift{end}"] for end in ("", "_low", "_high")] == [1, 1, 1]  # of one token each
    assert metrics["eval/win_rate_length_controlled"] == pytest.approx(metrics["eval/win_rate"], abs=0.01)


def test_what_trips_is_a_metric_of_its_round(tmp_path: Path) -> None:
    other = Evaluation(LowerIsBetter(), ONE, every=1)
    records = toy.run(tmp_path, rounds=4, evaluation=other, alarms=Alarms(proxy_gap=0.1)).ledger.records
    beyond = [record.metrics["eval/proxy_gap_low"] > 0.1 for record in records]
    assert any(beyond) and not all(beyond)
    assert ["alarm/proxy_gap" in record.metrics for record in records] == beyond
    assert {record.metrics["alarm/proxy_gap"] for record, loud in zip(records, beyond, strict=True) if loud} == {1}
    off = toy.run(tmp_path / "off", rounds=4, evaluation=other, alarms=Alarms(proxy_gap=None)).ledger.records
    assert not [record for record in off if "alarm/proxy_gap" in record.metrics]


@pytest.mark.parametrize("cold", [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 3}])
def test_there_is_no_kl_where_the_answers_are_not_the_policy_s_own(tmp_path: Path, cold: dict[str, float]) -> None:
    assert "eval/kl" in evaluated(tmp_path / "own")
    metrics = evaluated(tmp_path / "cold", draw=SamplingParams(name="mine", n=1, **cold))
    assert "eval/kl" not in metrics
    assert "eval/win_rate" in metrics
