"""XPO against its closed form: the sign, the clip and the schedule of the exploration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_flow.objective.xpo import XPO
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import draw_pairs, gradients, tensors
from tests.support.pairs import metric


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_descent_lowers_what_the_reference_drew_whether_it_won_or_lost(p: float) -> None:
    pair = replace(draw_pairs(2)[0], p=p)
    objective = XPO(alpha=[0.25])
    _, (gradient,) = gradients(objective, tensors([pair], objective))
    assert gradient["extra"] == pytest.approx([0.25] * pair.length("extra"))


def test_the_clip_bounds_the_exploration_alone() -> None:
    pair = draw_pairs(2, scale=50)[0]
    near, far = (XPO(alpha=[0.0], clip=clip) for clip in (1e-3, 1e9))
    assert gradients(near, tensors([pair], near)) == gradients(far, tensors([pair], far))


def test_alpha_follows_the_rounds_and_its_last_value_stays() -> None:
    objective = XPO()
    assert [objective.at(round).alpha for round in (1, 2, 3, 4, 99)] == [[1e-5], [5e-6], [0.0], [0.0], [0.0]]
    assert objective.at(2) == replace(objective, alpha=[5e-6])


def test_before_a_round_is_named_alpha_is_that_of_the_first() -> None:
    pairs = draw_pairs(4)
    objective = XPO(alpha=[0.5, 0.1])
    assert gradients(objective, tensors(pairs, objective)) == gradients(objective.at(1), tensors(pairs, objective))


def test_the_metrics_have_the_log_ratio_of_the_third_response_as_it_is() -> None:
    pairs = draw_pairs(4)
    expected = [pair.ratio("reference", "extra") for pair in pairs]
    assert metric(XPO(clip=0.01), pairs, "extra") == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [[], [1e-5, -1e-6], [float("nan")], [float("inf")]])
def test_an_alpha_that_is_no_strength_is_refused(alpha: list[float]) -> None:
    with pytest.raises(ValueError, match=r"objective.alpha must be a list of numbers >= 0, one per round, got .*Fix"):
        XPO(alpha=alpha)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_clip_that_is_not_positive_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.clip must be > 0, got {clip}.*Fix: objective.alpha=\[0\]"):
        XPO(clip=clip)


def test_a_beta_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.beta must be > 0, got 0"):
        XPO(beta=0)


def test_it_needs_responses_of_the_reference_and_one_of_them_with_each_pair() -> None:
    one = frozenset({"reference"})
    assert XPO().needs == Needs(one, sampled={"reference": "reference"}, extra="reference", returns="best")
