"""A mixture of two reward models with a router, by hand."""

from __future__ import annotations

import math

import pytest

from rlhf_flow.objective.bradley_terry_mixture import BradleyTerryMixture
from tests.support.rewards import losses, read

FIRST = [[1.0, -0.5, 0.2, 0.8], [0.3, 2.0, 1.0, -1.0], [0.0, 0.1, -2.0, 1.5]]
SECOND = [[0.2, 0.7, 1.0, 0.4], [-1.0, 1.5, 0.5, 0.1], [2.0, 0.4, 0.3, 0.6]]
LABELS = [0.8, 1.0, 0.3]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def weight(first: list[float], second: list[float]) -> float:
    """Of the first reward model."""
    return sigma((first[2] + second[2] - first[3] - second[3]) / 2)


def chance(first: list[float], second: list[float]) -> float:
    w = weight(first, second)
    return w * sigma(first[0] - second[0]) + (1 - w) * sigma(first[1] - second[1])


def entropy(w: float) -> float:
    return -w * math.log(w) - (1 - w) * math.log(1 - w)


WEIGHTS = [weight(first, second) for first, second in zip(FIRST, SECOND, strict=True)]
CHANCES = [chance(first, second) for first, second in zip(FIRST, SECOND, strict=True)]


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_the_loss_is_a_cross_entropy_and_keeps_both_in_use(balance: float) -> None:
    in_use = entropy(sum(WEIGHTS) / 3)
    expected = [
        -label * math.log(p) - (1 - label) * math.log(1 - p) - balance * in_use
        for label, p in zip(LABELS, CHANCES, strict=True)
    ]
    assert losses(BradleyTerryMixture(balance), read(FIRST, SECOND, LABELS)) == pytest.approx(expected)


def test_its_metrics() -> None:
    metrics = BradleyTerryMixture().loss(read(FIRST, SECOND, LABELS)).metrics
    odds = [
        math.log(p / (1 - p)) * (1 if label > 0.5 else -1) for label, p in zip(LABELS, CHANCES, strict=True)
    ]  # of the preferred side
    assert metrics["margin"].tolist() == pytest.approx(odds)
    assert metrics["accuracy"].tolist() == [float(each > 0) for each in odds]
    assert metrics["router"].tolist() == pytest.approx([entropy(w) for w in WEIGHTS])


def test_a_certain_mixture_has_a_finite_loss() -> None:
    certain = read([[60.0, 60.0, 0.0, 0.0]] * 2, [[0.0, 0.0, 0.0, 0.0]] * 2, [0.0, 1.0])
    wrong, right = losses(BradleyTerryMixture(0.0), certain)
    assert wrong == pytest.approx(-math.log(1e-6)) and right == pytest.approx(1e-6)
    turned = read([[0.0, 0.0, 0.0, 0.0]], [[60.0, 60.0, 0.0, 0.0]], [1.0])
    assert losses(BradleyTerryMixture(0.0), turned) == pytest.approx([-math.log(1e-6)])
