"""Answers that are too far from the policy are in no pair, or stop the run; each in a bucket of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.metrics.off_policy import GateError, OffPolicy
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.stages.off_policy import _number_measured
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams
from tests.support import toy

pytestmark = pytest.mark.slow


class Rounding(toy.Engine):
    """Says of answer 0 that it was likelier than it is: by half a nat in round 2."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        drawn = super().generate(prompts, policy, draw, round=round, seed=seed)
        if round != 2:
            return drawn
        return replace(
            drawn,
            responses=tuple(
                tuple(replace(one, logps=one.logps + (one.tokens == 0) * np.float32(0.5)) for one in group)
                for group in drawn.responses
            ),
        )


def buckets(root: Path, round: int) -> dict[str, dict[str, int]]:
    return json.loads((root / f"rounds/{round:05d}/buckets.json").read_text())


def test_what_the_engine_computes_otherwise_is_measured(tmp_path: Path) -> None:
    records = toy.run(tmp_path, rounds=3, engine=Rounding(), off_policy=OffPolicy(measured=1000)).ledger.records
    off = [record.metrics["mismatch/max"] for record in records[1:]]
    assert off == pytest.approx([0, 0.5, 0], abs=1e-6)
    drawn = pq.read_table(tmp_path / "rounds/00002/responses")["tokens"].to_pylist()
    share = sum(tokens == [0] for tokens in drawn) / len(drawn)
    assert 0 < share < 1
    assert records[2].metrics["mismatch/mean"] == pytest.approx(0.5 * share, abs=1e-6)
    assert records[2].metrics["mismatch/kl"] == pytest.approx(0.5 * share, abs=1e-6)
    assert records[2].metrics["mismatch/responses"] == len(drawn)


def test_one_round_off_the_measure_is_of_what_was_learned_meanwhile(tmp_path: Path) -> None:
    records = toy.run(tmp_path, rounds=2, lag=1, off_policy=OffPolicy(measured=1000)).ledger.records
    first = json.loads((tmp_path / "rounds/00001/policy/logits.json").read_text())
    start, learned = toy.log_softmax(np.zeros((toy.PROMPTS, toy.ANSWERS))), toy.log_softmax(np.asarray(first))
    drawn = pq.read_table(tmp_path / "rounds/00002/responses").to_pylist()
    off = [abs(float((learned - start)[row["prompt_tokens"][0], row["tokens"][0]])) for row in drawn]
    assert records[1].metrics["mismatch/max"] == pytest.approx(0, abs=1e-6)
    assert records[2].metrics["mismatch/mean"] == pytest.approx(np.mean(off), abs=1e-6)


def test_answers_beyond_are_in_no_pair_and_counted(tmp_path: Path) -> None:
    gate = OffPolicy(max_mismatch=0.1)
    toy.run(tmp_path, rounds=3, engine=Rounding(), selector=AllPairs(), off_policy=gate)
    rows = pq.read_table(tmp_path / "rounds/00002/responses").to_pylist()
    beyond = {row["response"] for row in rows if row["tokens"] == [0]}
    counts = buckets(tmp_path, 2)["responses"]
    assert counts["mismatched"] == len(beyond) > 0
    assert sum(counts.values()) == len(rows)
    pairs = pq.read_table(tmp_path / "rounds/00002/pairs").to_pylist()
    assert pairs and not beyond & {pair[side] for pair in pairs for side in ("first", "second")}
    assert "mismatched" not in buckets(tmp_path, 3)["responses"]


def test_answers_that_are_too_old_are_in_no_pair_and_counted(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=2, lag=1, selector=AllPairs(), off_policy=OffPolicy(max_staleness=0))
    assert "stale" not in buckets(tmp_path, 1)["responses"]
    answers = pq.read_table(tmp_path / "rounds/00002/responses").num_rows
    assert buckets(tmp_path, 2)["responses"] == {"stale": answers}


def test_a_gate_that_stops_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(
        GateError, match=r"off_policy.max_mismatch=0.1: .* responses of round 2 .* by 0.5\. The run stopped"
    ):
        toy.run(tmp_path / "run", rounds=3, engine=Rounding(), off_policy=OffPolicy(max_mismatch=0.1, exceeding="stop"))
    toy.run(tmp_path / "run", rounds=3, engine=Rounding(), off_policy=OffPolicy(max_mismatch=0.6, exceeding="stop"))
    toy.run(tmp_path / "calm", rounds=3, engine=Rounding(), off_policy=OffPolicy(max_mismatch=0.6))
    finals = [json.loads((tmp_path / name / "final.json").read_text())["sha256"] for name in ("run", "calm")]
    assert finals[0] == finals[1]


def test_some_answers_are_measured_where_nobody_asks_for_all(tmp_path: Path) -> None:
    records = toy.run(tmp_path, rounds=2, off_policy=OffPolicy(measured=5)).ledger.records
    assert [record.metrics["mismatch/responses"] for record in records[1:]] == [5, 5]
    silent = toy.run(tmp_path / "silent", rounds=2, off_policy=OffPolicy(measured=0)).ledger
    assert not any("mismatch" in key for key in silent.records[1].metrics)


@pytest.mark.parametrize(
    ("asked", "answers", "measured"), [(64, 4096, 64), (64, 64, 16), (64, 320, 40), (2, 12, 2), (1000, 64, 1000)]
)
def test_one_answer_in_eight_is_measured_unless_more_are_asked_for(asked: int, answers: int, measured: int) -> None:
    assert _number_measured(asked, answers) == measured
