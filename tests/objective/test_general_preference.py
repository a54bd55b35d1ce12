"""The loss of a general preference model against its definition, and what it can say that a reward cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from rlhf_flow.objective.bradley_terry import BradleyTerry
from rlhf_flow.objective.general_preference import GeneralPreference, skew
from rlhf_flow.scorer.models.gpm import log_odds
from rlhf_flow.types import Needs
from tests.support.pairs import SEEDS, quick
from tests.support.rewards import losses, random_pairs, read, swapped


@quick
@given(SEEDS)
def test_the_form_is_that_of_the_block_diagonal_matrix(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 7, 6, dtype=torch.float64, generator=generator)
    block = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    turned = first @ torch.block_diag(block, block, block).T  # R v
    s = skew(first, second)
    assert s.tolist() == pytest.approx((turned * second).sum(-1).tolist())
    assert (skew(second, first) == -s).all()
    np.testing.assert_array_equal(log_odds(first.numpy(), second.numpy()), s.numpy())  # what the scorer says


def test_the_loss_is_the_cross_entropy_of_the_form() -> None:
    pairs = read([[1.0, 2.0]], [[0.5, -1.0]], [0.7])
    s = 1.0 * -1.0 - 2.0 * 0.5
    assert losses(GeneralPreference(), pairs) == pytest.approx(
        [0.7 * math.log1p(math.exp(-s)) + 0.3 * math.log1p(math.exp(s))]
    )
    metrics = GeneralPreference().loss(pairs).metrics
    assert (metrics["margin"].tolist(), metrics["accuracy"].tolist()) == ([s], [0.0])


@quick
@given(SEEDS)
def test_which_response_comes_first_does_not_matter(seed: int) -> None:
    pairs = random_pairs(seed, outputs=4)
    here, there = (GeneralPreference().loss(each) for each in (pairs, swapped(pairs)))
    assert there.values.tolist() == pytest.approx(here.values.tolist())
    for name, values in here.metrics.items():
        assert there.metrics[name].tolist() == pytest.approx(values.tolist())


def test_with_a_constant_coordinate_it_is_bradley_terry() -> None:
    rewards = random_pairs(3, outputs=1)
    first, second = (side.values.tolist() for side in (rewards.current.first, rewards.current.second))
    embedded = read([[r, 1.0] for (r,) in first], [[r, 1.0] for (r,) in second], rewards.preference.tolist())
    assert losses(GeneralPreference(), embedded) == pytest.approx(losses(BradleyTerry(), rewards))


def test_a_cycle_costs_it_nothing_and_bradley_terry_a_coin() -> None:
    around = [[8 * math.cos(a), 8 * math.sin(a)] for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    pairs = read(around, [around[1], around[2], around[0]], [1.0] * 3)
    assert max(losses(GeneralPreference(), pairs)) < 1e-6
    assert losses(BradleyTerry(), read([[0.0]] * 3, [[0.0]] * 3, [1.0] * 3)) == pytest.approx([math.log(2)] * 3)


def test_an_odd_number_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an even number of numbers, and the learner reads 3.*outputs=8"):
        GeneralPreference().loss(random_pairs(0, outputs=3))


def test_it_needs_nothing_around_it() -> None:
    assert GeneralPreference().needs == Needs(readout="embedding")
    assert GeneralPreference().at(5) == GeneralPreference()
