"""Regression on ratings against its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given

from rlhf_flow.objective.rating_regression import RatingRegression
from rlhf_flow.types import Needs, PairLogps
from tests.support.pairs import SEEDS, quick
from tests.support.rewards import losses, random_pairs, read, swapped


def rated(pairs: PairLogps, ratings: list[list[float]]) -> PairLogps:
    return replace(pairs, worth=torch.tensor(ratings, dtype=torch.float64))


def test_the_gap_of_rewards_is_drawn_to_that_of_ratings() -> None:
    pairs = rated(read([[1.0], [3.5]], [[0.5], [1.5]], [1.0, 1.0]), [[4.0, 1.0], [2.0, 0.0]])
    assert losses(RatingRegression(), pairs) == pytest.approx([(0.5 - 3) ** 2, 0.0])
    assert losses(RatingRegression(center=0.1), pairs) == pytest.approx([2.5**2 + 0.1 * 1.5**2, 0.1 * 25])
    assert losses(RatingRegression(scale=0.5), pairs) == pytest.approx([(0.5 - 1.5) ** 2, 1.0])
    assert RatingRegression().loss(pairs).metrics["target"].tolist() == pytest.approx([3, 2])


def test_ratings_that_are_far_apart_are_exact() -> None:
    """As a probability in float32, a difference of 17 or more would be rounded, or infinite."""
    pairs = rated(read([[17.0], [30.0]], [[0.0], [0.0]], [1.0, 1.0]), [[17.0, 0.0], [30.0, 0.0]])
    assert losses(RatingRegression(), pairs) == [0.0, 0.0]


@quick
@given(SEEDS)
def test_which_response_comes_first_does_not_matter(seed: int) -> None:
    ratings = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed)).tolist()
    pairs = rated(random_pairs(seed, outputs=1), ratings)
    turned = rated(swapped(pairs), [one[::-1] for one in ratings])
    here, there = (RatingRegression(0.7, 0.2).loss(each) for each in (pairs, turned))
    assert there.values.tolist() == pytest.approx(here.values.tolist())
    for name, values in here.metrics.items():
        assert there.metrics[name].tolist() == pytest.approx(values.tolist())


def test_pairs_without_ratings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"these pairs have none.*Fix: selector\.worth=utility, and scorer\.ratings"):
        RatingRegression().loss(read([[1.0]], [[0.0]], [0.0]))


def test_it_is_a_configuration() -> None:
    assert RatingRegression().needs == Needs(side_value="utility", readout="number")
    assert RatingRegression(0.1).at(2) == RatingRegression(0.1)
    with pytest.raises(ValueError, match=r"objective.scale must be > 0, got 0"):
        RatingRegression(scale=0)
    with pytest.raises(ValueError, match=r"objective.center must be >= 0"):
        RatingRegression(center=float("nan"))
