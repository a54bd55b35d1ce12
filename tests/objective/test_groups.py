"""Objectives of groups: what every one of them has in common. Their formulas: `rlhf_flow.verify.claims`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given as given_any
from hypothesis import strategies as st

from rlhf_flow.objective.a_lol import ALoL
from rlhf_flow.objective.asymre import AsymRE
from rlhf_flow.objective.groups import advantage, count, log_ratio, spread
from rlhf_flow.objective.grpo import GRPO
from rlhf_flow.objective.kto import KTO
from rlhf_flow.objective.opmd import OPMD
from rlhf_flow.objective.rloo import RLOO
from rlhf_flow.protocols import Objective
from rlhf_flow.types import GroupLogps, Needs
from rlhf_flow.verify.groups import OneGroup, draw_groups, tensors
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


def in_float32(worth: list[float], objective: Objective, mass: list[float] | None = None) -> GroupLogps:
    """One group, with worth and mass as the learner has them; its policies are the same."""
    logps = [[-1.0 - k, -0.5] for k in range(len(worth))]
    drawn = tensors([OneGroup(dict.fromkeys(("current", "reference", "previous"), logps), worth)], objective)
    shares = [1 / len(worth)] * len(worth) if mass is None else [one / sum(mass) for one in mass]
    return replace(drawn, worth=torch.tensor(worth), mass=torch.tensor(shares))


def pull(objective: Objective, groups: GroupLogps) -> list[float]:
    """The derivative of the loss by the first token of each answer."""
    (found,) = torch.autograd.grad(objective.loss(groups).values.sum(), groups.current.values)
    return [float(each) for each in found[:, 0]]


@given_any(st.floats(-1e6, 1e6, width=32), st.lists(st.floats(1e-3, 1), min_size=2, max_size=16))
def test_equal_worths_have_no_advantage_in_float32(worth: float, mass: list[float]) -> None:
    for shares in (None, mass):
        groups = in_float32([worth] * len(mass), OPMD(), shares)
        assert not advantage(groups).any() and not spread(groups).any()


@pytest.mark.parametrize(("worth", "n"), [(97.0, 3), (5.0, 7), (17.0, 6), (0.7, 8), (0.7, 16), (1.0, 3)])
@pytest.mark.parametrize(
    "objective", [RLOO(beta=0.0), RLOO(), GRPO(beta=0.0), GRPO(), OPMD(), ALoL(), AsymRE(shift=0.0), KTO()]
)
def test_a_group_without_spread_moves_no_answer(objective: Objective, worth: float, n: int) -> None:
    """The policies are equal, so a KL has no gradient either."""
    assert not any(pull(objective, in_float32([worth] * n, objective)))


def test_an_answer_at_the_mean_of_its_group_is_not_above_it() -> None:
    for n in range(3, 33, 2):
        above = advantage(in_float32([float(k) for k in range(n)], OPMD()))
        assert above[n // 2] == 0 and (above[n // 2 + 1 :] > 0).all() and (above[: n // 2] < 0).all()


def test_the_mean_of_all_answers_is_the_baseline_if_they_are_enumerated() -> None:
    """It does not depend on the answer; of samples the baseline is the mean of the others."""
    objective = RLOO(beta=0.0, clip=None)
    groups = in_float32([1.0, 0.5, 0.0], objective)
    sampled = pull(objective, groups)
    assert pull(objective, replace(groups, enumerated=True)) == pytest.approx([each * 2 / 3 for each in sampled])


def test_unpaired_answers_of_a_group_without_spread_count_only_against_a_threshold() -> None:
    for worth in (0.0, 1.0, 0.7):
        tied = KTO().loss(in_float32([worth] * 7, KTO()))
        assert tied.values.item() == 0 and tied.metrics["desirable"].item() == 0
        up = pull(KTO(threshold=0.5), in_float32([worth] * 7, KTO()))
        assert all(each < 0 for each in up) if worth > 0.5 else all(each > 0 for each in up)


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
