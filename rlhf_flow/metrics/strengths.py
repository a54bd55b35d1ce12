"""Strengths of answers that did not all meet, by the model of Bradley and Terry, 1952."""

from __future__ import annotations

import numpy as np

from rlhf_flow.metrics.stats import sigmoid

NEWTON_STEPS = 100  # convergence takes about ten, or thirty if answers are unbeaten
LONGEST_STEP = 2.0  # nats
TOLERANCE = 1e-12  # nats
PRIOR = 0.01  # of a win and of a loss against an opponent of strength 0: larger ones shrink win rates


def strengths(wins: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """Strengths theta [n], in nats: P(i beats j) = sigma(theta_i - theta_j), fitted to wins [n, n].

    Maximum a posteriori by Newton's method. The prior keeps the strength of an unbeaten answer finite. NaN is no match.
    """
    known = ~np.isnan(wins)
    np.fill_diagonal(known, False)
    points = np.where(known, wins, 0.0).sum(-1, dtype=np.float64) + prior  # [n]
    theta = np.zeros(len(wins))
    for _ in range(NEWTON_STEPS):
        p = sigmoid(theta[:, None] - theta) * known  # [n, n]
        even = sigmoid(theta)  # [n], against an opponent of strength 0
        slope = p * p.T  # p (1 - p)
        curvature = np.diag(slope.sum(-1) + 2 * prior * even * (1 - even)) - slope
        step = np.linalg.solve(curvature, points - p.sum(-1) - 2 * prior * even).clip(-LONGEST_STEP, LONGEST_STEP)
        theta = theta + step
        if np.abs(step).max(initial=0.0) < TOLERANCE:
            break
    return theta


def imputed(wins: np.ndarray, missing: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """float64 [n, n]: `wins`, with P(i beats j) of the fitted strengths for the pairs in `missing`."""
    theta = strengths(wins, prior)
    filled: np.ndarray = np.where(missing, sigmoid(theta[:, None] - theta), wins)
    return filled
