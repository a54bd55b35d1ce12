"""The loss of a language model that compares, against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given

from rlhf_flow.objective.generative_preference import GenerativePreference
from rlhf_flow.types import Needs, PairLogps, Sides, TokenLogps
from rlhf_flow.verify.pairs import draw_pairs, gradients, tensors
from tests.support.pairs import SEEDS, quick


def letters(first: list[float], second: list[float], preference: list[float]) -> PairLogps:
    """Pairs of answers of one token with these log-probs."""
    sides = [torch.tensor(side, dtype=torch.float64)[:, None].requires_grad_() for side in (first, second)]
    whole = torch.ones(len(first), 1, dtype=torch.bool)
    p = torch.tensor(preference, dtype=torch.float64)
    return PairLogps(Sides(*(TokenLogps(side, whole) for side in sides)), {}, p, torch.ones(len(p)))


def test_it_is_the_cross_entropy_of_the_odds_of_the_letters() -> None:
    a, b = math.log(0.3), math.log(0.1)  # so A is said three times in four
    found = GenerativePreference().loss(letters([a, a], [b, b], [1.0, 0.6]))
    assert found.values.tolist() == pytest.approx([-math.log(0.75), -0.6 * math.log(0.75) - 0.4 * math.log(0.25)])
    assert found.metrics["margin"].tolist() == pytest.approx([math.log(3)] * 2)
    assert found.metrics["accuracy"].tolist() == [1, 1]


@quick
@given(SEEDS)
def test_the_letters_share_a_softmax_so_nothing_else_is_taught(seed: int) -> None:
    """The log-probs are of one distribution over five words: the loss moves the logits of two of them alone."""
    logits = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    logps = logits.log_softmax(-1)
    one = torch.ones(1, 1, dtype=torch.bool)
    sides = Sides(TokenLogps(logps[None, :1], one), TokenLogps(logps[None, 1:2], one))
    p = torch.tensor([0.7], dtype=torch.float64)
    GenerativePreference().loss(PairLogps(sides, {}, p, torch.ones(1))).values.sum().backward()
    assert logits.grad is not None
    said = torch.sigmoid(logits.detach()[0] - logits.detach()[1]).item()
    assert logits.grad.tolist() == pytest.approx([said - 0.7, 0.7 - said, 0, 0, 0], abs=1e-12)


@quick
@given(SEEDS)
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    objective, step = GenerativePreference(), 1e-4
    drawn = draw_pairs(seed, count=2)
    _, found = gradients(objective, tensors(drawn, objective))
    for row, pair in enumerate(drawn):
        for side, gradient in found[row].items():
            for token, slope in enumerate(gradient):
                up, down = (
                    objective.loss(tensors([pair.moved(side, token, by)], objective)).values.item()
                    for by in (step, -step)
                )
                assert slope == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-5)


@quick
@given(SEEDS)
def test_which_answer_comes_first_does_not_matter(seed: int) -> None:
    drawn = draw_pairs(seed)
    here, there = (
        GenerativePreference().loss(tensors(pairs, GenerativePreference()))
        for pairs in (drawn, [pair.swapped() for pair in drawn])
    )
    assert there.values.tolist() == pytest.approx(here.values.tolist())
    for name, values in here.metrics.items():
        assert there.metrics[name].tolist() == pytest.approx(values.tolist())


def test_it_needs_no_reference() -> None:
    assert GenerativePreference().needs == Needs()
    assert GenerativePreference().at(5) == GenerativePreference()
