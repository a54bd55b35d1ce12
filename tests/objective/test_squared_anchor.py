"""The square against its closed form, and the four algorithms that it is."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.types import Needs
from rlhf_flow.verify import formulas
from rlhf_flow.verify.pairs import draw_pairs
from tests.support.pairs import CYCLE, START, metric, normalised, slope_at

BEFORE = np.array([0.2, 0.5, 0.3])
ETA, TAU = 0.4, 0.1


def half_step() -> np.ndarray:
    return normalised(BEFORE ** (1 - TAU / ETA) * START ** (TAU / ETA) * np.exp(CYCLE @ BEFORE / ETA))


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(BEFORE, id="online mirror descent"),
        pytest.param(normalised(BEFORE ** (1 - TAU / ETA) * START ** (TAU / ETA)), id="Nash mirror descent"),
        pytest.param(half_step(), id="extragradient descent"),
        pytest.param(np.full(3, 1 / 3), id="uniform pairs"),
    ],
)
@pytest.mark.parametrize("tau", [0.0, TAU])
def test_the_minimiser_is_the_step_against_whoever_drew_the_pairs(tau: float, sampler: np.ndarray) -> None:
    anchor = BEFORE ** (1 - tau / ETA) * START ** (tau / ETA)
    step = normalised(anchor * np.exp(CYCLE @ sampler / ETA))
    roles = {"previous": BEFORE, "reference": START}
    found = slope_at(SquaredAnchor(ETA, tau), step, sampler, **roles)
    assert found == pytest.approx(np.zeros(3), abs=1e-12)
    assert np.abs(slope_at(SquaredAnchor(ETA, tau), BEFORE, sampler, **roles)).max() > 1e-2


def test_other_pairs_than_the_opponents_make_another_step() -> None:
    step = half_step()
    roles = {"previous": BEFORE, "reference": START}
    assert np.abs(slope_at(SquaredAnchor(ETA, TAU), step, np.full(3, 1 / 3), **roles)).max() > 1e-2


def test_the_metrics_say_where_h_is_and_where_it_is_drawn_to() -> None:
    pairs = draw_pairs(5, count=20)
    objective = SquaredAnchor(ETA, TAU)
    expected = [np.sign(pair.p - 0.5) * formulas.anchored(pair, ETA, TAU, "sum") for pair in pairs]
    assert metric(objective, pairs, "h") == pytest.approx(expected, abs=1e-12)
    assert metric(objective, pairs, "target") == pytest.approx([abs(2 * pair.p - 1) / (2 * ETA) for pair in pairs])
    assert metric(objective, pairs, "margin") == pytest.approx([ETA * h for h in expected], abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, -1.0, float("nan")])
def test_an_eta_that_is_not_positive_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.eta must be > 0, got {eta}\."):
        SquaredAnchor(eta)


@pytest.mark.parametrize("tau", [-0.1, 0.3, 1.0, float("nan")])
def test_a_tau_that_leaves_nothing_of_the_previous_policy_is_refused(tau: float) -> None:
    rule = rf"objective.tau must be >= 0 and < objective.eta=0.3, got {tau}\..*Fix: objective.tau=0\.1"
    with pytest.raises(ValueError, match=rule):
        SquaredAnchor(0.3, tau)


def test_a_reduction_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.reduction must be sum or mean, got max"):
        SquaredAnchor(reduction="max")


def test_it_needs_the_reference_only_where_it_is_regularised() -> None:
    assert SquaredAnchor().needs == Needs(anchors=frozenset({"previous"}), on_policy=True, returns="average")
    assert SquaredAnchor(ETA, TAU).needs == Needs(anchors=frozenset({"previous", "reference"}), on_policy=True)
    assert SquaredAnchor(0.2).at(7) == SquaredAnchor(0.2)
