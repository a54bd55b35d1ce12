"""SPPO against its closed form, and what its constant costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_flow.objective.sppo import SPPO
from rlhf_flow.types import Needs, PairLogps, Sides, TokenLogps
from rlhf_flow.verify.pairs import OnePair, draw_pairs
from tests.support.pairs import CYCLE, START, agrees, metric, normalised


def test_both_responses_rise_where_both_win_more_than_half() -> None:
    anchor = {side: [-1.0, -2.0] for side in ("first", "second", "extra")}
    pair = OnePair(dict.fromkeys(("current", "reference", "previous"), anchor), 0.3, (0.9, 0.6))
    agrees(SPPO(10.0), lambda _: (0.5 * (4.0**2 + 1.0**2), pair.slopes(-4.0, -1.0)), [pair])


def test_the_metrics_look_from_the_side_with_the_larger_win_rate() -> None:
    pairs = draw_pairs(1, count=20)
    sign = [1 if pair.worth[0] > pair.worth[1] else -1 for pair in pairs]
    h = [s * pair.gap("previous") for s, pair in zip(sign, pairs, strict=True)]
    assert metric(SPPO(50.0), pairs, "h") == pytest.approx(h)
    assert metric(SPPO(50.0), pairs, "margin") == pytest.approx([value / 50 for value in h])
    target = [50 * abs(pair.worth[0] - pair.worth[1]) for pair in pairs]
    assert metric(SPPO(50.0), pairs, "target") == pytest.approx(target)


@pytest.mark.parametrize(("wins", "costs"), [(CYCLE, True), (np.full((3, 3), 0.5), False)])
@pytest.mark.parametrize("eta", [1.0, 1000.0])
def test_a_half_in_place_of_log_z_asks_for_more_than_a_distribution_has(
    wins: np.ndarray, costs: bool, eta: float
) -> None:
    """Z >= exp(eta / 2) by Jensen: even the exact step misses both targets, by log Z - eta / 2 each."""
    rate = wins @ START
    log_z = np.logaddexp.reduce(np.log(START) + eta * rate)
    assert (log_z > eta / 2 + 1e-6) == costs
    ratio = eta * rate - log_z  # of the exact step, pi ~ START exp(eta rate)
    if eta == 1:
        assert START * np.exp(ratio) == pytest.approx(normalised(START * np.exp(eta * rate)))
    mask = torch.ones(1, 1, dtype=torch.bool)

    def sides(logps: np.ndarray) -> Sides:
        return Sides(*(TokenLogps(torch.tensor([[logps[at]]]), mask) for at in (0, 1)))

    one = torch.ones(1, dtype=torch.float64)
    pairs = PairLogps(
        current=sides(np.log(START) + ratio),
        anchors={"previous": sides(np.log(START))},
        preference=one / 2,
        weight=one,
        worth=torch.tensor(rate[None, :2]),
    )
    assert SPPO(eta).loss(pairs).values.item() == pytest.approx((log_z - eta / 2) ** 2, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, -1.0, float("nan")])
def test_an_eta_that_is_not_positive_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.eta must be > 0, got {eta}\..*1000"):
        SPPO(eta)


def test_a_reduction_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.reduction must be sum or mean, got max"):
        SPPO(reduction="max")


def test_it_needs_the_previous_policy_and_win_rates_against_it() -> None:
    assert SPPO().needs == Needs(
        anchors=frozenset({"previous"}), side_value="win_rate", on_policy=True, returns="average"
    )
    assert SPPO(0.2).at(7) == SPPO(0.2)
