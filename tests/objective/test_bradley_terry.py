"""The loss of a reward model against its formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given

from rlhf_flow.objective.bradley_terry import BradleyTerry
from rlhf_flow.types import Needs, TokenLogps
from tests.support.pairs import SEEDS, quick
from tests.support.rewards import losses, random_pairs, read, swapped

EVERY = [BradleyTerry(), BradleyTerry(center=0.3), BradleyTerry("margin"), BradleyTerry("scale", center=0.1)]


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_each_strength_is_its_formula() -> None:
    pairs = read([[1.0], [0.2]], [[-0.5], [0.9]], [0.8, 0.3])
    gaps, wins = (1.5, -0.7), (0.8, 0.3)
    strengths = [abs(math.log(p / (1 - p))) for p in wins]
    winners = (1.5, 0.7)  # the gap as the preferred side sees it
    assert losses(BradleyTerry(), pairs) == pytest.approx(
        [-p * log_sigma(g) - (1 - p) * log_sigma(-g) for g, p in zip(gaps, wins, strict=True)]
    )
    assert losses(BradleyTerry("margin"), pairs) == pytest.approx(
        [-log_sigma(g - m) for g, m in zip(winners, strengths, strict=True)]
    )
    assert losses(BradleyTerry("scale"), pairs) == pytest.approx(
        [-m * log_sigma(g) for g, m in zip(winners, strengths, strict=True)]
    )


def test_centering_adds_the_square_of_the_level() -> None:
    pairs = read([[1.0]], [[-0.5]], [1.0])
    assert losses(BradleyTerry(center=0.2), pairs)[0] - losses(BradleyTerry(), pairs)[0] == pytest.approx(0.2 * 0.25)


@pytest.mark.parametrize("objective", EVERY)
@quick
@given(SEEDS)
def test_which_response_comes_first_does_not_matter(objective: BradleyTerry, seed: int) -> None:
    pairs = random_pairs(seed, outputs=1)
    here, there = objective.loss(pairs), objective.loss(swapped(pairs))
    assert there.values.tolist() == pytest.approx(here.values.tolist())
    for name, values in here.metrics.items():
        assert there.metrics[name].tolist() == pytest.approx(values.tolist())
        assert not values.requires_grad


@pytest.mark.parametrize("strength", ["label", "margin"])
def test_a_tie_draws_the_rewards_together(strength: str) -> None:
    pairs = read([[1.0]], [[-1.0]], [0.5])
    BradleyTerry(strength).loss(pairs).values.sum().backward()
    first, second = pairs.current.first.values.grad, pairs.current.second.values.grad
    assert first is not None and second is not None
    assert first.item() > 0 > second.item()
    assert losses(BradleyTerry("scale"), pairs) == [0.0]


def test_a_label_of_its_own_strength_is_where_the_loss_is_least() -> None:
    p = 0.8
    at_the_odds = read([[math.log(p / (1 - p))]], [[0.0]], [p])
    BradleyTerry().loss(at_the_odds).values.sum().backward()
    assert at_the_odds.current.first.values.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("strength", ["margin", "scale"])
def test_a_hard_label_has_no_strength(strength: str) -> None:
    with pytest.raises(ValueError, match=rf"objective.strength={strength} needs labels .* scorer.ratings"):
        BradleyTerry(strength).loss(read([[1.0]], [[0.0]], [1.0]))


def test_anything_but_one_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reads one number of each response, but the learner reads 4.*outputs=1"):
        BradleyTerry().loss(random_pairs(0, outputs=4))


def test_the_log_probs_of_a_policy_are_refused() -> None:
    pairs = random_pairs(0, outputs=3)
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[0, 2] = False
    side = TokenLogps(pairs.current.first.values, mask)
    with pytest.raises(ValueError, match=r"log-probs of a policy.*train-reward"):
        BradleyTerry().loss(replace(pairs, current=replace(pairs.current, first=side)))


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.strength must be one of label, margin, scale, got 'much'"):
        BradleyTerry("much")
    with pytest.raises(ValueError, match=r"objective.center must be >= 0, got -1"):
        BradleyTerry(center=-1)


def test_it_needs_nothing_around_it() -> None:
    assert BradleyTerry().needs == Needs(readout="number")
    assert BradleyTerry("scale").at(3) == BradleyTerry("scale")
