"""DNO against its closed form, and the policy that minimises it."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.objective.dno import DNO
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import draw_pairs
from tests.support.pairs import CYCLE, START, metric, normalised, slope_at

BEFORE = np.array([0.2, 0.5, 0.3])


@pytest.mark.parametrize("sampler", [BEFORE, np.full(3, 1 / 3)])
@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_the_minimiser_is_the_anchor_times_exp_of_the_win_rates(tau: float, sampler: np.ndarray) -> None:
    """Whoever draws the pairs: it is a regression. The win rates are against the previous policy."""
    eta = 0.4
    anchor = BEFORE ** (1 - tau / eta) * START ** (tau / eta)
    minimiser = normalised(anchor * np.exp(CYCLE @ BEFORE / eta))
    roles = {"previous": BEFORE, "reference": START}
    slope = slope_at(DNO(eta, tau), minimiser, sampler, opponent=BEFORE, **roles)
    assert slope == pytest.approx(np.zeros(3), abs=1e-12)
    elsewhere = slope_at(DNO(eta, tau), START, sampler, opponent=BEFORE, **roles)
    assert np.abs(elsewhere).max() > 1e-3


def test_the_metrics_look_from_the_side_with_the_larger_win_rate() -> None:
    pairs = draw_pairs(1, count=20)
    sign = [1 if pair.worth[0] > pair.worth[1] else -1 for pair in pairs]
    expected = [0.3 * s * pair.gap("previous") for s, pair in zip(sign, pairs, strict=True)]
    assert metric(DNO(0.3), pairs, "margin") == pytest.approx(expected)


def test_constants_that_make_no_step_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.eta must be > 0, got 0\. .*larger stays nearer"):
        DNO(eta=0)
    with pytest.raises(ValueError, match=r"objective.tau must be >= 0 and < objective.eta=0.3, got 0.3\..*0\.1, or a"):
        DNO(eta=0.3, tau=0.3)


def test_it_needs_the_reference_only_where_it_is_regularised() -> None:
    assert DNO().needs == Needs(
        anchors=frozenset({"previous"}), side_value="win_rate", on_policy=True, returns="average"
    )
    assert DNO(tau=0.01).needs.anchors == {"previous", "reference"}
    assert DNO(0.2).at(7) == DNO(0.2)
