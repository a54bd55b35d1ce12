"""Objectives of groups: what every one of them has in common. Their formulas: `rlhf_flow.verify.claims`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlhf_flow.protocols import Objective
from rlhf_flow.types import Needs
from rlhf_flow.verify.groups import draw_groups, tensors
from tests.objective.test_every_objective import GROUPS

EACH = [pytest.param(o, id=f"{name}-{at}") for name, some in GROUPS.items() for at, o in enumerate(some)]
each = pytest.mark.parametrize("objective", EACH)


@each
def test_it_is_satisfied_by_what_it_needs(objective: Objective) -> None:
    assert isinstance(objective.needs, Needs) and objective.needs.examples == "groups"
    groups = draw_groups(0)
    loss = objective.loss(tensors(groups, objective))
    assert loss.values.shape == (len(groups),) and loss.values.requires_grad
    for values in loss.metrics.values():
        assert values.shape == (len(groups),)
        assert values.is_floating_point() and not values.requires_grad


@each
def test_groups_do_not_see_each_other(objective: Objective) -> None:
    """So micro-batches change nothing."""
    groups = draw_groups(1)
    together = objective.loss(tensors(groups, objective)).values
    alone = torch.cat([objective.loss(tensors([one], objective)).values for one in groups])
    torch.testing.assert_close(together, alone)


@each
def test_padding_gets_no_gradient(objective: Objective) -> None:
    given = tensors(draw_groups(2), objective)
    junk = torch.where(given.current.mask, given.current.values, -7.0).detach().requires_grad_()
    dirty = replace(given, current=replace(given.current, values=junk))
    (gradient,) = torch.autograd.grad(objective.loss(dirty).values.sum(), junk)
    assert not gradient[~given.current.mask].any()
    torch.testing.assert_close(objective.loss(dirty).values, objective.loss(given).values)


@each
def test_a_round_gives_an_objective_of_the_same_kind(objective: Objective) -> None:
    assert objective.at(3) == objective


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("rloo", {"beta": -1.0}, r"objective\.beta must be >= 0"),
        ("grpo", {"clip": 0.0}, r"objective\.clip must be > 0"),
        ("opmd", {"tau": 0.0}, r"objective\.tau must be > 0"),
        ("kto", {"desirable": 0.0}, r"objective\.desirable and objective\.undesirable must be > 0"),
        ("a_lol", {"clip": 1.0}, r"objective\.clip must be in \(0, 1\)"),
        ("pro", {"nll": -1.0}, r"objective\.nll must be >= 0"),
        ("trpa", {"best": 0.0}, r"objective\.best must be > 0"),
    ],
)
def test_impossible_constants_are_refused(name: str, wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        type(GROUPS[name][0])(**wrong)
