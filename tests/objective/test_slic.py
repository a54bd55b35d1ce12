"""The hinge against its closed form, and its three slopes."""

from __future__ import annotations

import pytest

from rlhf_flow.objective.slic import SLiC
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import OnePair, gradients, tensors


@pytest.mark.parametrize("beta", [0.002, 0.1])
@pytest.mark.parametrize(("beyond", "active"), [(None, True), (-1e-3, True), (1e-3, False)])
def test_the_gradient_is_beta_within_the_margin_and_gone_beyond_it(
    beta: float, beyond: float | None, active: bool
) -> None:
    delta = 0.0 if beyond is None else 1 / beta + beyond
    anchor = {"first": [-1.0, -2.0], "second": [-3.0], "extra": [-1.0]}
    tokens = {"current": {**anchor, "first": [-1.0, -2.0 + delta]}, "reference": anchor, "previous": anchor}
    _, (gradient,) = gradients(SLiC(beta), tensors([OnePair(tokens, 1.0, (1, 0))], SLiC()))
    assert gradient["first"] == pytest.approx([-beta * active] * 2, abs=1e-15)
    assert gradient["second"] == pytest.approx([beta * active], abs=1e-15)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.beta must be > 0, got {beta}.*0\.002"):
        SLiC(beta)


def test_a_reduction_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.reduction must be sum or mean, got max"):
        SLiC(reduction="max")


def test_it_needs_the_reference() -> None:
    assert SLiC().needs == Needs(anchors=frozenset({"reference"}))
    assert SLiC(0.2).at(7) == SLiC(0.2)
