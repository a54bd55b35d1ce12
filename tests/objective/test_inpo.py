"""INPO against its closed form, its constants and its schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlhf_flow.objective.inpo import INPO
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import at_the_anchors, draw_pairs, gradients, tensors
from tests.support.pairs import CYCLE, START, nash, normalised, slope_at


def test_where_it_starts_descent_raises_the_winner_by_1_over_eta() -> None:
    pair = at_the_anchors(draw_pairs(0)[0], p=1.0, worth=(1, 0))
    _, (gradient,) = gradients(INPO(0.005), tensors([pair], INPO()))
    assert gradient["first"] == pytest.approx([-200.0] * pair.length("first"))
    assert gradient["second"] == pytest.approx([200.0] * pair.length("second"))


def test_the_nash_equilibrium_is_a_fixed_point() -> None:
    tau = 0.1
    policy = nash(tau)
    for eta in (0.2, 0.5, 2.0):
        slope = slope_at(INPO(eta, tau), policy, policy, previous=policy, reference=START)
        assert slope == pytest.approx(np.zeros(3), abs=1e-9)


def test_the_minimiser_is_the_closed_form_of_a_step() -> None:
    before, eta, tau = np.array([0.2, 0.5, 0.3]), 0.5, 0.1
    step = normalised(np.exp(CYCLE @ before / eta) * START ** (tau / eta) * before ** (1 - tau / eta))
    slope = slope_at(INPO(eta, tau), step, before, previous=before, reference=START)
    assert slope == pytest.approx(np.zeros(3), abs=1e-12)


def test_eta_may_grow_with_the_rounds() -> None:
    objective = INPO(tau=0.1, decaying=True)
    assert [objective.at(round).eta for round in (1, 2, 3, 98)] == pytest.approx([0.15, 0.2, 0.25, 5.0])
    assert objective.at(2) == INPO(eta=0.1 * 4 / 2, tau=0.1)
    assert INPO(0.2).at(7) == INPO(0.2)
    assert INPO(0.2, 0.1).at(7) == INPO(0.2, 0.1)


def test_before_a_round_is_named_eta_is_that_of_the_first() -> None:
    pairs = draw_pairs(4)
    objective = INPO(tau=0.1, decaying=True)
    assert gradients(objective, tensors(pairs, objective)) == gradients(objective.at(1), tensors(pairs, objective))


@pytest.mark.parametrize("tau", [0.0, -0.1, 0.3, 1.0, float("nan")])
def test_a_tau_outside_of_its_bounds_is_refused(tau: float) -> None:
    rule = rf"objective.tau must be > 0 and < objective.eta=0.3, got {tau}:.*eta / 3.*decaying=true"
    with pytest.raises(ValueError, match=rule):
        INPO(0.3, tau)


@pytest.mark.parametrize("eta", [0.0, -1.0, float("nan")])
def test_an_eta_that_is_not_positive_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.eta must be > 0, got {eta}\..*0\.005"):
        INPO(eta)


@pytest.mark.parametrize("tau", [None, 0.0, float("nan")])
def test_a_schedule_without_a_tau_is_refused(tau: float | None) -> None:
    with pytest.raises(ValueError, match=rf"objective.tau must be > 0 with .*got {tau}\. Fix: objective.tau=0.002"):
        INPO(tau=tau, decaying=True)


def test_a_reduction_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.reduction must be sum or mean, got max"):
        INPO(reduction="max")


def test_it_needs_both_anchors_and_samples_of_the_policy_itself() -> None:
    needs = Needs(anchors=frozenset({"previous", "reference"}), on_policy=True)
    assert INPO().needs == needs
    assert INPO(tau=0.1, decaying=True).needs == needs
    assert replace(INPO(), tau=0.001).needs == needs
