"""Which policy is the best one of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_flow.stages.context import Evaluation
from rlhf_flow.types import Rollouts, SamplingParams, Scored
from tests.support import toy


class Measured(toy.HigherIsBetter):
    """As the cyclic scorer, it measures the duality gap, here a given one for each evaluation."""

    def __init__(self, gaps: Sequence[float]) -> None:
        self.gaps = list(gaps)

    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        return Scored(scored.rollouts, scored.utility, scored.wins, batch_metrics={"gap": self.gaps.pop(0)})


def best(folder: Path) -> dict[str, object]:
    return json.loads((folder / "best.json").read_text())


def evaluated(folder: Path, scorer: toy.HigherIsBetter) -> list[float]:
    """The win rates of a run."""
    evaluation = Evaluation(scorer, SamplingParams(name="held-out", n=1), every=1)
    records = toy.run(folder, rounds=3, k=4, evaluation=evaluation).ledger.records
    return [record.metrics["eval/win_rate"] for record in records]


def test_the_best_policy_has_the_highest_win_rate(tmp_path: Path) -> None:
    rates = evaluated(tmp_path, toy.HigherIsBetter())
    assert best(tmp_path)["round"] == int(np.argmax(rates))


def test_it_has_the_smallest_duality_gap_where_that_is_measured(tmp_path: Path) -> None:
    rates = evaluated(tmp_path, Measured([0.4, 0.3, 0.1, 0.2]))
    assert best(tmp_path)["round"] == 2 != int(np.argmax(rates))
