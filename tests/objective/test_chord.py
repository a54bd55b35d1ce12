"""CHORD is its base with an expert's answer beside each group."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlhf_flow.objective.chord import CHORD
from rlhf_flow.objective.grpo import GRPO
from rlhf_flow.objective.ofs import OFS
from rlhf_flow.types import GroupLogps, TokenLogps
from rlhf_flow.verify.groups import draw_groups, tensors

BASE = GRPO()


def groups() -> tuple[GroupLogps, torch.Tensor]:
    """Two groups with an expert's answer of one token and of two, and the log-probs of its tokens."""
    logps = torch.tensor([[-0.1, -7.0], [-0.5, -2.0]], dtype=torch.float64, requires_grad=True)
    expert = TokenLogps(logps, torch.tensor([[True, False], [True, True]]))
    return replace(tensors(draw_groups(0, count=2), BASE), extra=expert), logps


@pytest.mark.parametrize("by_token", [False, True])
def test_the_loss_is_a_mean_of_two(by_token: bool) -> None:
    given, logps = groups()
    p = logps.detach().exp()
    weight = p * (1 - p) if by_token else torch.ones_like(p)
    nll = torch.stack([-(weight * logps)[0, 0], -(weight * logps)[1].mean()])
    loss = CHORD(BASE, mu=0.3, by_token=by_token).at(1).loss(given)
    torch.testing.assert_close(loss.values, 0.7 * BASE.loss(given).values + 0.3 * nll)
    (slope,) = torch.autograd.grad(loss.values.sum(), logps)
    expected = -0.3 * weight * torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    torch.testing.assert_close(slope, expected.double())
    assert loss.metrics["mu"].tolist() == pytest.approx([0.3, 0.3])
    assert loss.metrics["expert_nll"].tolist() == pytest.approx([0.1, 1.25])
    assert not any(values.requires_grad for values in loss.metrics.values())


def test_the_expert_fades() -> None:
    weights = [CHORD(BASE, mu=0.9, mu_end=0.1, anneal=4).at(round).mu for round in range(1, 7)]
    assert weights == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1, 0.1])
    assert CHORD(BASE, mu=0.9, mu_end=0.1, anneal=0).at(1).mu == pytest.approx(0.1)


def test_its_base_is_that_of_the_round() -> None:
    assert [CHORD(OFS()).at(round).base.slow for round in (1, 2)] == [True, False]


def test_no_weight_is_the_base_and_no_expert_is_refused() -> None:
    given, _ = groups()
    torch.testing.assert_close(CHORD(BASE, mu=0.0, mu_end=0.0).loss(given).values, BASE.loss(given).values)
    with pytest.raises(ValueError, match=r"reads an expert's answer .* Fix: selector\.extra"):
        CHORD(BASE).loss(replace(given, extra=None))
