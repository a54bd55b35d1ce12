"""Ratings of policies: planted strengths, the scale of Elo, and intervals over prompts."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.metrics.ratings import ratings
from rlhf_flow.metrics.stats import sigmoid


def planted(strengths: list[float], prompts: int = 40) -> np.ndarray:
    theta = np.array(strengths)
    return np.broadcast_to(sigmoid(theta[:, None] - theta), (prompts, len(theta), len(theta))).copy()


def test_planted_strengths_are_found() -> None:
    """The prior shrinks them by less than a percent."""
    strengths = [0.8, -0.2, -0.6]
    assert [one.strength for one in ratings(planted(strengths))] == pytest.approx(strengths, abs=0.02)


def test_odds_of_ten_are_400_points() -> None:
    first, second = ratings(planted([np.log(10) / 2, -np.log(10) / 2]))
    assert first.elo[0] - second.elo[0] == pytest.approx(400, rel=0.03)
    assert first.elo[0] + second.elo[0] == pytest.approx(2000)


def test_intervals_cover_chance_and_narrow_with_prompts() -> None:
    def width(prompts: int) -> float:
        beats = np.arange(prompts) % 2.0
        wins = np.full((prompts, 2, 2), 0.5)
        wins[:, 0, 1], wins[:, 1, 0] = beats, 1 - beats
        one = ratings(wins)[0]
        assert one.low < 0 < one.high
        return one.high - one.low

    assert width(400) < width(24) / 2


def test_missing_verdicts_count_nothing_and_weights_count_more() -> None:
    wins = np.full((2, 2, 2), 0.5)
    wins[:, 0, 1], wins[:, 1, 0] = [1.0, 0.0], [0.0, 1.0]
    weights = np.ones_like(wins)
    weights[0] = 3
    assert ratings(wins, weights)[0].strength == pytest.approx(np.log(3) / 2, abs=0.02)
    wins[0] = np.nan
    assert ratings(wins)[0].strength < -1


def test_verdicts_that_all_agree_have_an_interval_of_some_width() -> None:
    wins = np.full((4, 2, 2), 0.5)
    wins[:, 0, 1], wins[:, 1, 0] = 1.0, 0.0
    first, second = ratings(wins)
    assert first.high - first.low > 0.5
    assert first.low > 0 > second.high
    assert first.low <= first.strength <= first.high
    assert (first.low, first.high) == pytest.approx((-second.high, -second.low))
