"""Check a loss and its gradient against a closed form, on pairs of unequal length, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rlhf_flow.protocols import Objective
from rlhf_flow.verify.claim import Finding, below
from rlhf_flow.verify.pairs import ClosedForm, Gradient, OnePair, at_the_anchors, draw_pairs, gradients, tensors

EXACT = 1e-9  # maximum difference, relative to values above 1
STEP = 1e-6  # nats, of finite differences
NUMERIC = 1e-5


def agreement(
    variants: Sequence[tuple[Objective, ClosedForm]], *, seed: int = 0, count: int = 32, surrogate: bool = False
) -> Iterator[Finding]:
    """Compare each objective with its closed form on `count` random pairs.

    `surrogate`: the loss has factors that depend on the policy but are treated as constant, so its gradient is not its
    derivative, and it has no margin.
    """
    pairs = draw_pairs(seed, count=count)
    value = slope = numeric = margin = 0.0
    for objective, closed_form in variants:
        values, found = gradients(objective, tensors(pairs, objective))
        for pair, measured, gradient in zip(pairs, values, found, strict=True):
            loss, expected = closed_form(pair)
            value = max(value, difference(measured, loss))
            slope = max(slope, *(_largest(gradient[side], expected[side]) for side in gradient))
        if not surrogate:
            numeric = max(numeric, from_differences(objective, pairs, values, found))
        if not surrogate and objective.needs.anchors:
            there = [at_the_anchors(pair, p=1.0, worth=(0.9, 0.2)) for pair in pairs]
            margins = objective.loss(tensors(there, objective)).metrics["margin"]
            margin = max(margin, float(margins.abs().max()))
    yield below("the loss against its formula, largest difference", value, EXACT)
    yield below("its gradient by every token against the formula's", slope, EXACT)
    if not surrogate:
        yield below("its gradient against finite differences", numeric, NUMERIC)
        yield below("the margin where every anchor is the policy", margin, 1e-12)


def difference(measured: float, expected: float) -> float:
    difference = abs(measured - expected) / max(1.0, abs(expected))
    return math.inf if math.isnan(difference) else difference  # every comparison with NaN is False


def _largest(measured: Sequence[float], expected: Sequence[float]) -> float:
    return max(difference(here, there) for here, there in zip(measured, expected, strict=True))


def from_differences(
    objective: Objective, pairs: Sequence[OnePair], values: Sequence[float], found: Sequence[Gradient]
) -> float:
    """The largest difference to the best of the one-sided and central differences: a kink may be within a step."""
    places = [
        (row, side, token)
        for row, gradient in enumerate(found)
        for side, slopes in gradient.items()
        for token in range(len(slopes))
    ]

    def moved(by: float) -> list[float]:
        there = [pairs[row].moved(side, token, by) for row, side, token in places]
        return list(objective.loss(tensors(there, objective)).values.tolist())

    worst = 0.0
    for (row, side, token), up, down in zip(places, moved(STEP), moved(-STEP), strict=True):
        numeric = ((up - values[row]) / STEP, (values[row] - down) / STEP, (up - down) / (2 * STEP))
        worst = max(worst, min(difference(found[row][side][token], one) for one in numeric))
    return worst
