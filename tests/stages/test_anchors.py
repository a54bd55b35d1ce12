"""Anchors' log-probs come from the engine if it generated the answers and was measured to agree with the learner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.metrics.off_policy import Anchors, OffPolicy
from rlhf_flow.replay import Window
from rlhf_flow.schedule import EveryK, Fixed
from tests.support import toy

pytestmark = pytest.mark.slow


class Off(toy.Engine):
    """Says of every answer that it was likelier than it is, by so many nats."""

    def __init__(self, nats: float) -> None:
        self.nats = np.float32(nats)

    def generate(self, *arguments: object, **named: object) -> object:
        drawn = super().generate(*arguments, **named)
        groups = tuple(tuple(replace(one, logps=one.logps + self.nats) for one in group) for group in drawn.responses)
        return replace(drawn, responses=groups)


def facts(root: Path, rounds: int, **settings: object) -> list[tuple[int, int]]:
    """Of each round: how many log-probs the learner computed, and how many came from the engine."""
    usual = {"schedule": EveryK(1), "replay": Window(1), "off_policy": OffPolicy(measured=1000), "anchors": Anchors()}
    run = toy.run(root, rounds=rounds, **usual | settings)
    stages = [run.ledger.committed(round, "anchor") for round in range(1, rounds + 1)]
    return [(stage.facts["anchors/scored"], stage.facts["anchors/read"]) for stage in stages]


def test_the_learner_computes_none_that_the_engine_has(tmp_path: Path) -> None:
    assert all(scored == 0 and read > 0 for scored, read in facts(tmp_path / "engine", 3))
    assert all(scored > 0 and read == 0 for scored, read in facts(tmp_path / "learner", 3, anchors=Anchors("learner")))
    for round in (1, 2, 3):
        tables = [pq.read_table(tmp_path / by / f"rounds/{round:05d}/anchors") for by in ("engine", "learner")]
        ours, theirs = (table.sort_by("response").to_pylist() for table in tables)
        assert [(row["response"], row["policy"]) for row in ours] == [
            (row["response"], row["policy"]) for row in theirs
        ]
        for one, other in zip(ours, theirs, strict=True):
            assert one["logps"] == pytest.approx(other["logps"], abs=1e-6)


@pytest.mark.parametrize(("nats", "read"), [(5e-5, True), (2e-4, False)])
def test_an_engine_that_disagrees_is_not_read(tmp_path: Path, nats: float, read: bool) -> None:
    assert all((found > 0) == read for _, found in facts(tmp_path, 2, engine=Off(nats)))


def test_a_round_whose_mismatch_was_not_measured_reads_none(tmp_path: Path) -> None:
    assert all(read == 0 for _, read in facts(tmp_path, 2, off_policy=OffPolicy(measured=0)))


def test_an_anchor_that_generated_nothing_is_computed(tmp_path: Path) -> None:
    (first, *later) = facts(tmp_path, 3, schedule=Fixed())  # the reference is the start, which answers in round 1 only
    assert first[0] == 0
    assert all(scored > 0 and read == 0 for scored, read in later)


class OneStep(toy.Learner):
    STEPS = 1


def test_an_anchor_that_the_learner_reads_in_its_step_is_not_computed_before(tmp_path: Path) -> None:
    settings = {"anchors": Anchors("learner"), "learner": OneStep()}
    assert facts(tmp_path, 2, **settings) == [(0, 0)] * 2
    stages = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rounds/*/stages/anchor.json"))]
    assert all(stage["facts"]["anchors/in_step"] > 0 for stage in stages) and len(stages) == 2


@pytest.mark.parametrize("k", [1, 3])
def test_a_run_that_must_train_the_round_of_an_anchor_again_is_the_same(tmp_path: Path, k: int) -> None:
    """With k=3 the anchor of rounds 4 to 6 is the policy of round 3, which wrote no checkpoint."""
    anchors = []
    for name, ends in (("run", (4, 5, 6)), ("whole", (6,))):
        for rounds in ends:
            run = toy.run(tmp_path / name, rounds=rounds, k=k, every=2, anchors=Anchors("learner"), learner=OneStep())
        facts = [run.ledger.committed(round, "anchor").facts["anchors/in_step"] for round in range(1, 7)]
        published = [run.ledger.committed(round, "publish").facts["sha256"] for round in range(1, 7)]
        anchors.append((facts, published))
    assert anchors[0] == anchors[1]
    assert any(anchors[0][0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"by": "scorer"}, "anchors.by must be engine or learner"), ({"max_mismatch": -1.0}, "anchors.max_mismatch must")],
)
def test_settings_are_checked(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Anchors(**keys)
