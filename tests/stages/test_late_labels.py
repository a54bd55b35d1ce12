"""Labels that come when their round is over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow.types import Rollouts, Scored
from tests.support import toy

pytestmark = pytest.mark.slow


class People:
    """They judge as `HigherIsBetter`, but are asked about every prompt `delay` times before they answer."""

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.asked: dict[tuple[int, str], int] = {}

    def score(self, rollouts: Rollouts) -> Scored:
        scored = toy.HigherIsBetter().score(rollouts)
        overdue = np.zeros(scored.wins.shape, dtype=bool)
        for b, prompt in enumerate(rollouts.prompts):
            key = (rollouts.round, prompt.id)
            self.asked[key] = self.asked.get(key, 0) + (len(rollouts.responses[b]) == 3)  # evaluation has two
            overdue[b] = (self.asked[key] <= self.delay) & ~np.eye(overdue.shape[1], dtype=bool)
        wins = np.where(overdue, np.nan, scored.wins)
        marks = {"overdue": overdue} if overdue.any() else {}
        return Scored(
            rollouts, scored.utility, wins, pair_flags=marks, counts={"judge/overdue": int(overdue.sum()) // 2}
        )

    def close(self) -> None: ...


class Compared(toy.BestAndWorst):
    """Only what was compared head to head."""

    def select(self, scored: Scored) -> toy.Selection:
        unknown = np.isnan(scored.wins).any((1, 2))
        utility = np.where(unknown[:, None], 0.0, scored.utility)
        return super().select(Scored(scored.rollouts, utility, scored.wins))


def pairs(root: Path, round: int) -> list[str]:
    tables = sorted((root / "rounds" / f"{round:05d}" / "pairs").glob("*.parquet"))
    return [row["first"] for table in tables for row in pq.read_table(table).to_pylist()]


def metrics(root: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("delay", [1, 2])
def test_a_late_label_is_learned_from_in_the_round_it_arrives_in(delay: int, tmp_path: Path) -> None:
    punctual = toy.run(tmp_path / "punctual", rounds=1)
    assert punctual.ledger.committed(1, "late") is None
    toy.run(tmp_path / "late", rounds=5, scorer=People(delay), selector=Compared())
    first = pairs(tmp_path / "punctual", 1)
    assert first and pairs(tmp_path / "late", 1) == []
    assert pairs(tmp_path / "late", 1 + delay) == first  # of the round they were sampled in
    assert all(id.startswith("1/") for id in first)
    for round in range(2 + delay, 6):
        assert all(id.startswith(f"{round - delay}/") for id in pairs(tmp_path / "late", round))
    told = metrics(tmp_path / "late")
    assert told[1 + delay]["late/pairs"] == len(first)
    assert told[1 + delay]["late/labels"] == 4 * 3  # prompts, pairs of three answers
    assert told[1 + delay]["pairs/tie"] == 4 and told[1]["pairs/used"] == 0
    assert "late/labels" not in told[1]


def test_what_arrived_is_asked_for_no_more(tmp_path: Path) -> None:
    people = People(1)
    toy.run(tmp_path, rounds=4, scorer=people, selector=Compared())
    assert {number for (round, _), number in people.asked.items() if number and round < 4} == {2}


def test_a_run_in_two_starts_learns_the_same_from_late_labels(tmp_path: Path) -> None:
    toy.run(tmp_path / "straight", rounds=4, scorer=People(2), selector=Compared())
    people = People(2)
    toy.run(tmp_path / "in two", rounds=2, scorer=people, selector=Compared())
    toy.run(tmp_path / "in two", rounds=4, scorer=people, selector=Compared())
    one, other = ((tmp_path / name / "rounds/00004/policy/logits.json").read_text() for name in ("straight", "in two"))
    assert one == other
