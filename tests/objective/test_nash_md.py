"""The policy gradient of Nash-MD against the exact gradient of the game, and against its closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_flow.objective.nash_md import NashMD
from rlhf_flow.types import Needs, PairLogps, Sides, TokenLogps
from rlhf_flow.verify.pairs import draw_pairs, gradients, tensors
from tests.support.pairs import metric

RESPONSES = [(0,), *((a, b) for a in (1, 2) for b in (0, 1, 2))]  # 0 ends an answer; two tokens are the most
MASK = torch.tensor([[True, len(response) == 2] for response in RESPONSES])  # [N, T]


def token_logps(logits: Tensor) -> Tensor:
    """Of all answers [N, T], given the logits [3, 3] of the first token and, after 1 or 2, of the second."""
    logp = logits.log_softmax(-1)
    rows = [[logp[0, r[0]], logp[r[0], r[1]] if len(r) == 2 else logp[0, 0] * 0] for r in RESPONSES]
    return torch.stack([torch.stack(row) for row in rows])


def table(seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(3, 3)), requires_grad=True)


def exact(tau: float) -> tuple[Tensor, Tensor]:
    """The gradient of E[P(y beats y')] - tau KL(pi, pi_ref) by enumeration; and the win probabilities [N, N]."""
    strength = np.random.default_rng(9).normal(size=(len(RESPONSES),) * 2)
    wins = torch.tensor(1 / (1 + np.exp(strength.T - strength)))
    logits = table(0)
    logp, reference = token_logps(logits).sum(-1), token_logps(table(1)).sum(-1).detach()
    opponent = token_logps(table(2)).sum(-1).detach().exp()
    value = logp.exp() @ (wins @ opponent) - tau * (logp.exp() * (logp - reference)).sum()
    value.backward()
    assert logits.grad is not None
    return logits.grad, wins


def estimated(tau: float, loss: Callable[[PairLogps], Tensor]) -> Tensor:
    """The gradient of the expected loss: each pair with the probability that policy and opponent draw it."""
    _, wins = exact(tau)
    logits, count = table(0), len(RESPONSES)
    i, j = (torch.tensor(index.ravel()) for index in np.indices((count, count)))
    logps, reference, opponent = (token_logps(some) for some in (logits, table(1), table(2)))

    def sides(values: Tensor) -> Sides:
        return Sides(TokenLogps(values[i], MASK[i]), TokenLogps(values[j], MASK[j]))

    pairs = PairLogps(
        current=sides(logps),
        anchors={"reference": sides(reference.detach()), "previous": sides(logps.detach())},
        preference=wins[i, j],
        weight=(logps.sum(-1)[i] + opponent.sum(-1)[j]).exp().detach(),
    )
    (loss(pairs) * pairs.weight).sum().backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("tau", [0.0, 0.008, 0.5])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_at_the_policy_that_drew_the_gradient_is_exact(tau: float, clip: float | None) -> None:
    gradient, _ = exact(tau)
    found = estimated(tau, lambda pairs: NashMD(tau, clip).loss(pairs).values)
    assert gradient.abs().max() > 1e-2
    assert (-found).flatten().tolist() == pytest.approx(gradient.flatten().tolist(), abs=1e-9)


def test_a_token_that_answers_for_its_own_kl_alone_gets_another_gradient() -> None:
    tau = 0.5

    def own_token(pairs: PairLogps) -> Tensor:
        current = pairs.current.first.values
        kl = (current - pairs.anchors["reference"].first.values).detach()
        reward = pairs.preference[:, None] - 0.5 - tau * kl
        return -(reward * current * pairs.current.first.mask).sum(-1)

    gradient, _ = exact(tau)
    assert (estimated(tau, own_token) + gradient).abs().max() > 1e-3


@pytest.mark.parametrize(("p", "sign"), [(1.0, -1), (0.0, 1)])
def test_descent_raises_a_first_response_that_wins_and_leaves_the_opponent_alone(p: float, sign: int) -> None:
    pair = replace(draw_pairs(0)[0], p=p)
    pair = replace(pair, tokens=dict.fromkeys(pair.tokens, pair.tokens["current"]))
    _, (gradient,) = gradients(NashMD(), tensors([pair], NashMD()))
    assert gradient["first"] == pytest.approx([sign * 0.5] * pair.length("first"))
    assert gradient["second"] == [0.0] * pair.length("second")


@pytest.mark.parametrize(("p", "step", "pays"), [(1.0, 0.5, False), (1.0, -0.5, True), (0.0, 0.5, True)])
def test_a_ratio_beyond_the_clip_pays_no_more_but_still_costs(p: float, step: float, pays: bool) -> None:
    pair = replace(draw_pairs(0)[0], p=p)
    before = {side: [logp - step for logp in logps] for side, logps in pair.tokens["current"].items()}
    pair = replace(pair, tokens={**pair.tokens, "reference": pair.tokens["current"], "previous": before})
    _, (gradient,) = gradients(NashMD(clip=0.2), tensors([pair], NashMD()))
    assert all((slope != 0) == pays for slope in gradient["first"])


def test_the_metrics_are_the_preference_and_the_kl_of_the_first_response() -> None:
    pairs = draw_pairs(4)
    assert metric(NashMD(), pairs, "preference") == [pair.p for pair in pairs]
    assert metric(NashMD(), pairs, "kl") == pytest.approx([pair.ratio("reference", "first") for pair in pairs])


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_a_negative_tau_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.tau must be >= 0, got {tau}\..*0\.008"):
        NashMD(tau)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_clip_that_is_not_positive_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match=rf"objective.clip must be > 0, got {clip}\..*Fix: objective.clip=0.2"):
        NashMD(clip=clip)


def test_an_unknown_word_about_scalar_judges_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.scalar_judge must be refuse or allow, got yes.*Fix"):
        NashMD(scalar_judge="yes")


def test_it_needs_a_judge_of_pairs_unless_told_otherwise() -> None:
    needs = Needs(
        anchors=frozenset({"reference", "previous"}),
        sampled={"policy": "previous"},
        on_policy=True,
        first_is_policy=True,
        general_preferences=True,
    )
    assert NashMD().needs == needs
    assert NashMD(scalar_judge="allow").needs == replace(needs, general_preferences=False)
    assert NashMD(0.2).at(7) == NashMD(0.2)
