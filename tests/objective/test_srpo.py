"""SRPO by hand, and at the optimum of the game that it solves."""

from __future__ import annotations

import pytest
import torch

from rlhf_flow.objective.srpo import SRPO
from rlhf_flow.types import GroupLogps, TokenLogps


def groups(*sixes: list[float], reference: float = -1.0) -> tuple[GroupLogps, torch.Tensor]:
    """Groups of the six answers, one token each, with these log-ratios to the reference."""
    values = torch.tensor([[each + reference] for six in sixes for each in six], dtype=torch.float64)
    values.requires_grad_()
    mask = torch.ones(len(values), 1, dtype=torch.bool)
    anchor = TokenLogps(torch.full_like(values, reference).detach(), mask)
    group = torch.arange(len(sixes)).repeat_interleave(len(sixes[0]))
    worth = torch.zeros(len(values), dtype=torch.float64)
    mass = torch.full_like(worth, 1 / 6)
    return GroupLogps(
        TokenLogps(values, mask), {"reference": anchor}, group, worth, torch.ones(len(sixes)), mass
    ), values


def test_the_three_conditions_by_hand() -> None:
    given, _ = groups([1.0, -1.0, 2.0, 0.5, 0.25, -0.5])
    loss = SRPO(beta=0.5, alpha=0.25).loss(given)
    reviser = (0.5 * 1.5 - 0.5) ** 2 + (0.5 * 0.75 - 0.5) ** 2
    policy = (0.5 * (1 + 1 + 2 + 0.5) - 1) ** 2
    assert loss.values.item() == pytest.approx(0.75 * reviser + 0.25 * policy)
    assert loss.metrics["margin"].item() == pytest.approx(1.0)
    assert loss.metrics["improvement"].item() == pytest.approx(0.75)
    assert not any(values.requires_grad for values in loss.metrics.values())


def test_groups_do_not_see_each_other() -> None:
    sixes = [1.0, -1.0, 2.0, 0.5, 0.25, -0.5], [0.3, 0.1, -0.4, 0.2, 0.7, -0.9]
    alone = torch.cat([SRPO().loss(groups(six)[0]).values for six in sixes])
    torch.testing.assert_close(SRPO().loss(groups(*sixes)[0]).values, alone)


def test_it_is_zero_where_the_conditions_hold() -> None:
    given, values = groups([0.5, -0.5, 1.0, 0.0, 1.0, 0.0])
    loss = SRPO(beta=0.5).loss(given).values  # P = 1: gaps of 1/2 for the reviser, and of 1 for both together
    assert loss.item() == pytest.approx(0.0)
    assert torch.autograd.grad(loss.sum(), values)[0].abs().max() == pytest.approx(0.0)


def test_groups_of_another_size_are_refused() -> None:
    given, _ = groups([0.0] * 5)
    with pytest.raises(ValueError, match=r"groups of the six answers .* Fix: algorithm=srpo"):
        SRPO().loss(given)
