"""The solution of a game, the regularised Nash policy, and the duality gap of other policies.

J_tau(pi1, pi2) = P(pi1 beats pi2) - tau KL(pi1 || ref) + tau KL(pi2 || ref): a symmetric game of constant sum 1. Its
unique equilibrium is pi ~ ref * exp(P(. beats pi) / tau). Munos et al. 2023, arXiv:2312.00886.
"""

from __future__ import annotations

import numpy as np

from rlhf_flow.games.game import Game


def softmax(logits: np.ndarray) -> np.ndarray:
    """[K]"""
    raised = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum())


def kl(policy: np.ndarray, other: np.ndarray) -> float:
    """KL(policy || other), in nats."""
    inside = policy > 0
    return float((policy[inside] * np.log(policy[inside] / other[inside])).sum())


def nash(game: Game, tau: float, *, enough: float = 1e-14, most: int = 200_000) -> np.ndarray:
    """The regularised Nash policy [K] by the extragradient method, to float64 precision.

    Raises RuntimeError if it does not converge within `most` steps.
    """
    eta = min(0.5 / tau, 1.0)
    reference = np.log(game.reference)

    def step(logits: np.ndarray, opponent: np.ndarray) -> np.ndarray:
        moved = (1 - eta * tau) * logits + eta * tau * reference + eta * game.wins @ opponent
        return np.asarray(moved - np.logaddexp.reduce(moved))

    logits = reference
    for _ in range(most):
        moved = step(logits, softmax(step(logits, softmax(logits))))
        if np.abs(moved - logits).max() < enough:
            return softmax(moved)
        logits = moved
    raise RuntimeError(f"no equilibrium of {game!r} at tau={tau} within {most} steps")


def gap(game: Game, policy: np.ndarray, tau: float) -> float:
    """The duality gap of `policy` [K] against itself: 0 at the equilibrium only, positive elsewhere.

    G_tau = max_pi1 J_tau(pi1, pi) - min_pi2 J_tau(pi, pi2), in closed form; at tau = 0 it is 2 max_y P(y beats pi) - 1.
    """
    wins = game.wins @ policy  # [K]: P(y beats policy)
    if tau == 0:
        return float(2 * wins.max() - 1)
    best = tau * np.logaddexp.reduce(np.log(game.reference) + wins / tau)
    return float(2 * (best + tau * kl(policy, game.reference)) - 1)


def tilted(base: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """base * exp(tilt), normalised, [K]: the solution of a KL-regularised maximisation."""
    return softmax(np.log(base) + tilt)
