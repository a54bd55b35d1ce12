"""DPO against its closed form in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.types import Needs, PairLogps, Sides, TokenLogps
from tests.support.pairs import START, normalised, slope_at


def side(total: torch.Tensor) -> TokenLogps:
    """Log-probs over three tokens and a masked one that add up to `total` [P]."""
    values = torch.stack([total - 3, total * 0 + 1, total * 0 + 2, total * 0 + 99], dim=-1)  # [P, 4]
    return TokenLogps(values, torch.tensor([True, True, True, False]).expand(len(total), 4))


def pair(
    first: object, second: object, reference: tuple[float, float] = (0.0, 0.0), *, preference: float = 1.0
) -> PairLogps:
    """One pair, from the four sums of log-probs."""
    totals = [torch.as_tensor(x, dtype=torch.float64).reshape(1) for x in (first, second, *reference)]
    one = torch.ones(1, dtype=torch.float64)
    return PairLogps(
        current=Sides(side(totals[0]), side(totals[1])),
        anchors={"reference": Sides(side(totals[2]), side(totals[3]))},
        preference=one * preference,
        weight=one,
    )


def test_descent_raises_the_preferred_response_by_beta_over_2_at_the_reference() -> None:
    first = torch.tensor(-5.0, dtype=torch.float64, requires_grad=True)
    second = torch.tensor(-7.0, dtype=torch.float64, requires_grad=True)
    DPO(0.1).loss(pair(first, second, (-5.0, -7.0))).values.sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.item() == pytest.approx(-0.05)
    assert second.grad.item() == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("preference", "margin", "accuracy", "chosen", "rejected"),
    [(1.0, 0.6, 1.0, 2.0, -4.0), (0.7, 0.6, 1.0, 2.0, -4.0), (0.2, -0.6, 0.0, -4.0, 2.0), (0.5, 0.0, 0.5, -1.0, -1.0)],
)
def test_metrics_look_from_the_preferred_side(
    preference: float, margin: float, accuracy: float, chosen: float, rejected: float
) -> None:
    metrics = DPO(0.1).loss(pair(-8.0, -14.0, (-10.0, -10.0), preference=preference)).metrics
    found = {name: value.item() for name, value in metrics.items()}
    expected = {"margin": margin, "accuracy": accuracy, "chosen": chosen, "rejected": rejected}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_margin_of_thousands_of_nats_stays_finite() -> None:
    values = DPO(1.0).loss(pair(-5000.0, 0.0)).values
    assert values.item() == pytest.approx(5000)


def test_a_soft_label_of_four_fifths_is_met_at_the_logit_of_four_fifths() -> None:
    first = torch.tensor(math.log(4) / 0.1, dtype=torch.float64, requires_grad=True)  # beta * delta = 1.386
    DPO(0.1).loss(pair(first, 0.0, preference=0.8)).values.sum().backward()
    assert first.grad is not None
    assert first.grad.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sampler", [START, np.array([0.2, 0.2, 0.6])])
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_under_preferences_that_come_from_rewards_the_optimum_is_the_tilted_reference(
    beta: float, sampler: np.ndarray
) -> None:
    rewards = np.array([0.0, 0.5, 1.2])
    wins = 1 / (1 + np.exp(rewards - rewards[:, None]))
    optimum = normalised(START * np.exp(rewards / beta))
    slope = slope_at(DPO(beta), optimum, sampler, wins=wins, reference=START)
    assert slope == pytest.approx(np.zeros(3), abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.beta must be > 0, got {beta}"):
        DPO(beta)


def test_the_objective_says_what_it_needs_and_does_not_depend_on_the_round() -> None:
    assert DPO().needs == Needs(anchors=frozenset({"reference"}))
    assert DPO(0.2).at(7) == replace(DPO(), beta=0.2)
