"""Objectives of groups: what every one of them has in common. Their formulas: `rlhf_flow.verify.claims`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlhf_flow.objective.groups import advantage, count, log_ratio, spread
from rlhf_flow.protocols import Objective
from rlhf_flow.types import Needs
from rlhf_flow.verify.groups import draw_groups, tensors
from tests.objective.test_every_objective import GROUPS

EACH = [pytest.param(o, id=f"{name}-{at}") for name, some in GROUPS.items() for at, o in enumerate(some)]
each = pytest.mark.parametrize("objective", EACH)


def test_what_is_shared_of_a_group() -> None:
    """Of the first two groups, by hand; and of answers that are enumerated with their probabilities."""
    drawn = draw_groups(3)[:2]
    given = tensors(drawn, GROUPS["opmd"][0])
    worth = [torch.tensor(one.worth) for one in drawn]
    expected = torch.cat([one - one.mean() for one in worth]).double()
    torch.testing.assert_close(advantage(given), expected, rtol=0, atol=1e-6)
    deviations = torch.stack([one.std(unbiased=False) for one in worth]).double()
    torch.testing.assert_close(spread(given), deviations, rtol=0, atol=1e-6)
    assert count(given).tolist() == [one.size for one in drawn]
    assert count(replace(given, enumerated=True)).isinf().all()
    ratios = [one.ratio("previous", i) for one in drawn for i in range(one.size)]
    means = [
        ratio / one.length(i)
        for one, ratio, i in ((o, o.ratio("previous", i), i) for o in drawn for i in range(o.size))
    ]
    assert log_ratio(given, "previous").tolist() == pytest.approx(ratios)
    assert log_ratio(given, "previous", reduction="mean").tolist() == pytest.approx(means)


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
