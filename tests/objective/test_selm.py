"""SELM against its closed form: alpha times beta, on the response that the reference drew."""

from __future__ import annotations

import pytest

from rlhf_flow.objective.selm import SELM
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import draw_pairs
from tests.support.pairs import metric


def test_the_metrics_have_the_log_ratio_of_the_third_response() -> None:
    pairs = draw_pairs(4)
    assert metric(SELM(), pairs, "extra") == pytest.approx([pair.ratio("reference", "extra") for pair in pairs])


@pytest.mark.parametrize("alpha", [-0.001, float("nan"), float("inf")])
def test_an_alpha_that_is_no_strength_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.alpha must be >= 0, got {alpha}.*Fix: objective.alpha=0"):
        SELM(alpha=alpha)


def test_a_variant_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.variant must be practical or theoretical, got greedy.*Fix"):
        SELM(variant="greedy")


def test_a_beta_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.beta must be > 0, got -1"):
        SELM(beta=-1)


def test_the_variant_says_who_drew_the_third_response() -> None:
    one = frozenset({"reference"})
    assert SELM().needs == Needs(one, sampled={"policy": "reference"}, extra="policy")
    assert SELM(variant="theoretical").needs == Needs(one, sampled={"reference": "reference"}, extra="reference")
    assert SELM(0.2).at(7) == SELM(0.2)
