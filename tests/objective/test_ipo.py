"""IPO against its closed form, and its optima on and off the policy's own samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf_flow.objective.ipo import IPO
from rlhf_flow.types import Needs
from rlhf_flow.verify.pairs import at_the_anchors, draw_pairs, gradients, tensors
from tests.support.pairs import CYCLE, START, metric, nash, normalised, slope_at


def test_sum_and_mean_are_different_losses() -> None:
    pairs = draw_pairs(3)
    total, mean = (IPO(0.1, reduction).loss(tensors(pairs, IPO())).values for reduction in ("sum", "mean"))
    assert (total - mean).abs().min() > 1e-2


def test_descent_raises_the_winner_by_1_over_tau_at_the_reference_and_turns_beyond_the_target() -> None:
    pair = at_the_anchors(draw_pairs(0)[0], p=1.0, worth=(1, 0))
    _, (gradient,) = gradients(IPO(0.1), tensors([pair], IPO()))
    assert gradient["first"] == pytest.approx([-10.0] * pair.length("first"))
    assert gradient["second"] == pytest.approx([10.0] * pair.length("second"))
    further = {**pair.tokens["current"], "first": [logp + 6 for logp in pair.tokens["current"]["first"]]}
    pair = replace(pair, tokens={**pair.tokens, "current": further})  # h >= 6, beyond 1 / (2 tau) = 5
    _, (gradient,) = gradients(IPO(0.1), tensors([pair], IPO()))
    assert gradient["first"][0] > 0


def test_the_metrics_say_where_h_is_and_where_it_is_drawn_to() -> None:
    pairs = draw_pairs(5, count=20)
    h, target, margin = (metric(IPO(0.2), pairs, name) for name in ("h", "target", "margin"))
    sign = [np.sign(pair.p - 0.5) for pair in pairs]
    assert h == pytest.approx([s * pair.gap("reference") for s, pair in zip(sign, pairs, strict=True)], abs=1e-12)
    assert target == pytest.approx([abs(pair.p - 0.5) / 0.2 for pair in pairs])
    assert margin == pytest.approx([0.2 * value for value in h])


@pytest.mark.parametrize("written_by", [(0.6, 0.3, 0.1), (0.1, 0.3, 0.6)])
def test_off_the_policy_the_optimum_depends_on_who_wrote_the_pairs(written_by: tuple[float, float, float]) -> None:
    mu, tau = np.array(written_by), 0.1
    optimum = normalised(START * np.exp(CYCLE @ mu / tau))
    expected = {0.6: (0.905, 0.020, 0.075), 0.1: (0.322, 0.652, 0.027)}[written_by[0]]
    assert optimum == pytest.approx(expected, abs=1e-3)
    assert slope_at(IPO(tau), optimum, mu, reference=START) == pytest.approx(np.zeros(3), abs=1e-12)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0.05, (0.45907, 0.12865, 0.41228)), (0.1, (0.59139, 0.09286, 0.31575)), (0.5, (0.6871, 0.1919, 0.1209))],
)
def test_on_the_policys_own_samples_the_nash_equilibrium_is_stationary(
    tau: float, expected: tuple[float, float, float]
) -> None:
    """Calandriello et al., Prop. 4.1."""
    policy = nash(tau)
    assert policy == pytest.approx(expected, abs=1e-4)
    assert slope_at(IPO(tau), policy, policy, reference=START) == pytest.approx(np.zeros(3), abs=1e-10)
    assert np.abs(slope_at(IPO(tau), policy, START, reference=START)).max() > 1e-2


def test_the_gradient_is_that_of_self_play_times_minus_4_over_tau() -> None:
    """Calandriello et al., Prop. 4.2; the factor is that of the raw square."""
    tau, logits = 0.1, torch.tensor([0.3, -0.8, 0.1], dtype=torch.float64, requires_grad=True)
    policy = logits.softmax(-1)
    itself = policy.detach()
    kl = (policy * (policy.log() - torch.tensor(np.log(START)))).sum()
    (policy @ torch.tensor(CYCLE) @ itself - tau * kl).backward()
    assert logits.grad is not None
    found = slope_at(IPO(tau), itself.numpy(), itself.numpy(), reference=START)
    assert found / logits.grad.numpy() == pytest.approx(np.full(3, -4 / tau), rel=1e-9)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_a_tau_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.tau must be > 0, got {tau}.*1\.0"):
        IPO(tau)


def test_a_reduction_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.reduction must be sum or mean, got tokens.*sum is what"):
        IPO(reduction="tokens")


def test_it_needs_the_reference_and_samples_of_the_policy_itself() -> None:
    assert IPO().needs == Needs(anchors=frozenset({"reference"}), on_policy=True)
    assert IPO(0.2).at(7) == IPO(0.2)
