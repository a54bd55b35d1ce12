"""Regression on ratings against its formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from rlhf_flow.objective.rating_regression import RatingRegression
from rlhf_flow.types import Needs
from tests.support.pairs import SEEDS, quick
from tests.support.rewards import losses, random_pairs, read, swapped


def of_ratings(first: float, second: float) -> float:
    """The label of two ratings."""
    return 1 / (1 + math.exp(second - first))


def test_the_gap_of_rewards_is_drawn_to_that_of_ratings() -> None:
    pairs = read([[1.0], [3.5]], [[0.5], [1.5]], [of_ratings(4, 1), of_ratings(2, 0)])
    assert losses(RatingRegression(), pairs) == pytest.approx([(0.5 - 3) ** 2, 0.0])
    assert losses(RatingRegression(center=0.1), pairs) == pytest.approx([2.5**2 + 0.1 * 1.5**2, 0.1 * 25])
    assert RatingRegression().loss(pairs).metrics["target"].tolist() == pytest.approx([3, 2])


@quick
@given(SEEDS)
def test_which_response_comes_first_does_not_matter(seed: int) -> None:
    pairs = random_pairs(seed, outputs=1)
    here, there = (RatingRegression(0.2).loss(each) for each in (pairs, swapped(pairs)))
    assert there.values.tolist() == pytest.approx(here.values.tolist())
    for name, values in here.metrics.items():
        assert there.metrics[name].tolist() == pytest.approx(values.tolist())


def test_a_label_without_a_rating_is_refused() -> None:
    with pytest.raises(ValueError, match=r"difference of two ratings, and a preference of 0 or 1 has none.*ratings"):
        RatingRegression().loss(read([[1.0]], [[0.0]], [0.0]))


def test_it_is_a_configuration() -> None:
    assert RatingRegression().needs == Needs(readout="number")
    assert RatingRegression(0.1).at(2) == RatingRegression(0.1)
    with pytest.raises(ValueError, match=r"objective.center must be >= 0"):
        RatingRegression(center=float("nan"))
