"""Preferences and ratings in one loss, against its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given

from rlhf_flow.objective.bradley_terry import BradleyTerry
from rlhf_flow.objective.rated_preference import RatedPreference
from rlhf_flow.types import PairLogps
from tests.support.pairs import SEEDS, quick
from tests.support.rewards import losses, random_pairs, read, swapped


def of_strength(m: float) -> float:
    """The label of a preference of this strength."""
    return 1 / (1 + math.exp(-m))


def rated(pairs: PairLogps, ratings: list[list[float]]) -> PairLogps:
    return replace(pairs, worth=torch.tensor(ratings, dtype=torch.float64))


def drawn(seed: int) -> PairLogps:
    pairs = random_pairs(seed, outputs=1)
    return rated(pairs, torch.randn(5, 2, generator=torch.Generator().manual_seed(seed + 1)).tolist())


def test_it_is_the_scaled_cross_entropy_and_the_squares() -> None:
    pairs = rated(read([[1.0], [0.5]], [[0.5], [2.0]], [of_strength(3), of_strength(-2)]), [[4.0, 1.0], [1.0, 2.0]])
    preferred = [3 * math.log1p(math.exp(-0.5)), 2 * math.log1p(math.exp(-1.5))]
    squares = [(3**2 + 0.5**2) / 2, (0.5**2 + 0) / 2]
    assert losses(RatedPreference(), pairs) == pytest.approx([p + s for p, s in zip(preferred, squares, strict=True)])
    assert losses(RatedPreference(weight=0.1), pairs) == pytest.approx(
        [p + 0.1 * s for p, s in zip(preferred, squares, strict=True)]
    )
    assert RatedPreference().loss(pairs).metrics["rating_error"].tolist() == pytest.approx(squares)


@quick
@given(SEEDS)
def test_without_weight_it_is_bradley_terry(seed: int) -> None:
    pairs = drawn(seed)
    for strength in ("label", "margin", "scale"):
        assert losses(RatedPreference(strength, weight=0.0), pairs) == losses(BradleyTerry(strength), pairs)


@quick
@given(SEEDS)
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    pairs, step = drawn(seed), 1e-5
    objective = RatedPreference(weight=0.7)
    objective.loss(pairs).values.sum().backward()
    for side in ("first", "second"):
        logps = getattr(pairs.current, side)

        def moved(by: float, side: str = side) -> list[float]:
            block = replace(getattr(pairs.current, side), values=getattr(pairs.current, side).values.detach() + by)
            return losses(objective, replace(pairs, current=replace(pairs.current, **{side: block})))

        slopes = [(up - down) / (2 * step) for up, down in zip(moved(step), moved(-step), strict=True)]
        assert logps.values.grad[:, 0].tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-6)


@quick
@given(SEEDS)
def test_which_response_comes_first_does_not_matter(seed: int) -> None:
    pairs = drawn(seed)
    assert pairs.worth is not None
    turned = replace(swapped(pairs), worth=pairs.worth.flip(-1))
    here, there = (RatedPreference().loss(each) for each in (pairs, turned))
    assert there.values.tolist() == pytest.approx(here.values.tolist())
    for name, values in here.metrics.items():
        assert there.metrics[name].tolist() == pytest.approx(values.tolist())


def test_the_rewards_that_cost_least_are_the_ratings_where_the_preferences_agree() -> None:
    pairs = rated(read([[40.0]], [[0.0]], [of_strength(3)]), [[40.0, 0.0]])
    assert losses(RatedPreference(), pairs) == pytest.approx([0], abs=1e-6)


def test_pairs_without_ratings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ratings of both sides.*Fix: selector.worth=utility, and scorer.ratings"):
        RatedPreference().loss(random_pairs(0, outputs=1))
    with pytest.raises(ValueError, match=r"objective.weight must be >= 0, got -1"):
        RatedPreference(weight=-1)
    with pytest.raises(ValueError, match=r"objective.strength must be one of"):
        RatedPreference(strength="loud")


def test_it_reads_a_number_and_the_utilities() -> None:
    needs = RatedPreference().needs
    assert (needs.readout, needs.side_value) == ("number", "utility")
    assert RatedPreference().at(3) == RatedPreference()
