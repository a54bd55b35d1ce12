"""What the tests of objectives share: agreement with a closed form, and policies that are a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from rlhf_flow.protocols import Objective
from rlhf_flow.types import PairLogps, Sides, TokenLogps
from rlhf_flow.verify.pairs import ClosedForm, OnePair, gradients, tensors

SEEDS = st.integers(0, 10**6)  # of `draw_pairs`
quick = settings(deadline=None, max_examples=4, derandomize=True)  # a kink lies between two steps once in a while


def agrees(
    objective: Objective,
    closed_form: ClosedForm,
    pairs: Sequence[OnePair],
    *,
    rel: float = 1e-9,
) -> None:
    """Assert that loss and gradient of each pair are those of `closed_form`, in float64."""
    values, found = gradients(objective, tensors(pairs, objective))
    for pair, value, gradient in zip(pairs, values, found, strict=True):
        expected, slopes = closed_form(pair)
        assert value == pytest.approx(expected, rel=rel, abs=1e-11)
        for side, slope in gradient.items():
            assert slope == pytest.approx(slopes[side], rel=rel, abs=1e-11), side


def metric(objective: Objective, pairs: Sequence[OnePair], name: str) -> list[float]:
    return objective.loss(tensors(pairs, objective)).metrics[name].tolist()


# -- policies that are a table ----------------------------------------------------------------------------------------

CYCLE = np.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]])  # P(row beats column): each answer is beaten
START = np.array([0.6, 0.3, 0.1])


def normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()


def nash(tau: float) -> np.ndarray:
    """The Nash equilibrium of `CYCLE`, regularised by tau * KL to `START`: extragradient steps on log-probs."""
    log_start = np.log(START)
    eta = min(0.5 / tau, 1.0)

    def step(log: np.ndarray, opponent: np.ndarray) -> np.ndarray:
        moved = (1 - eta * tau) * log + eta * tau * log_start + eta * CYCLE @ np.exp(opponent)
        return moved - np.log(np.exp(moved).sum())

    log = log_start
    for _ in range(5000):
        log = step(log, step(log, log))
    return np.exp(log)


def slope_at(
    objective: Objective,
    policy: np.ndarray,
    sampler: np.ndarray,
    *,
    wins: np.ndarray = CYCLE,
    opponent: np.ndarray | None = None,
    **anchors: np.ndarray,
) -> np.ndarray:
    """The gradient by the policy's logits [N] of the expected loss, both sides of each pair drawn from `sampler`.

    Responses are single tokens. `opponent` is who the win rates of the sides are against, `anchors` has the policies
    that play them.
    """
    count = len(policy)
    i, j = (index.ravel() for index in np.indices((count, count)))
    mask = torch.ones(count * count, 1, dtype=torch.bool)
    logits = torch.tensor(np.log(policy), requires_grad=True)

    def sides(logps: torch.Tensor) -> Sides:
        return Sides(TokenLogps(logps[i, None], mask), TokenLogps(logps[j, None], mask))

    rate = None if opponent is None else wins @ opponent
    pairs = PairLogps(
        current=sides(logits.log_softmax(-1)),
        anchors={name: sides(torch.tensor(np.log(anchor))) for name, anchor in anchors.items()},
        preference=torch.tensor(wins[i, j]),
        weight=torch.tensor(sampler[i] * sampler[j]),
        worth=None if rate is None else torch.tensor(np.stack([rate[i], rate[j]], -1)),
    )
    (objective.loss(pairs).values * pairs.weight).sum().backward()
    assert logits.grad is not None
    return logits.grad.numpy()
