"""Statistics that several metrics use: bootstrap intervals, sigmoid, logistic regression."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
BLOCK = 2**16  # values drawn at once: bounds the memory of many prompts
RIDGE = 0.01  # penalty on both coefficients: keeps a regression finite if one of them separates the verdicts
STEPS = 50  # of Newton's method, at most; about ten are taken


def resampled_sums(values: np.ndarray, *, seed: int) -> np.ndarray:
    """Sums [..., R] of R bootstrap resamples of values [..., B]. Equal B and seed give equal resamples."""
    generator, size = np.random.default_rng(seed), values.shape[-1]
    rows = max(1, BLOCK // max(1, size))
    blocks = ((min(rows, RESAMPLES - first), size) for first in range(0, RESAMPLES, rows))
    return np.concatenate([values[..., generator.integers(0, size, size=block)].sum(-1) for block in blocks], axis=-1)


def with_interval(name: str, value: float, resampled: np.ndarray) -> dict[str, float]:
    """`name`, and `name_low` and `name_high`: the 95 % percentile interval of resampled values [R]."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def mean_with_interval(name: str, values: np.ndarray, *, seed: int) -> dict[str, float]:
    """The mean of values [B] with its interval; empty if there are no values."""
    if not values.size:
        return {}
    return with_interval(name, values.mean(), resampled_sums(values, seed=seed) / values.size)


def sigmoid(odds: np.ndarray | float) -> np.ndarray:
    """1 / (1 + exp(-odds)), elementwise, without overflow, exactly 1/2 at 0; NaN stays NaN."""
    small = np.exp(-np.abs(odds))
    return np.asarray(np.where(np.asarray(odds) >= 0, 1.0, small) / (1 + small))


def logistic_regression(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The coefficients [K] that maximise the ridge-penalised likelihood of target [B] in [0, 1], given design [B, K].

    Newton's method with step halving.
    """

    def loss(coefficients: np.ndarray) -> float:
        odds = design @ coefficients  # [B]
        return float((np.logaddexp(0, odds) - target * odds).sum() + RIDGE / 2 * (coefficients**2).sum())

    coefficients = np.zeros(design.shape[1])
    for _ in range(STEPS):
        p = sigmoid(design @ coefficients)
        gradient = design.T @ (p - target) + RIDGE * coefficients
        hessian = (design * (p * (1 - p))[:, None]).T @ design + RIDGE * np.eye(design.shape[1])
        step = np.linalg.solve(hessian, gradient)
        while loss(coefficients - step) > loss(coefficients):
            step = step / 2
        coefficients = coefficients - step
        if np.abs(step).max() < 1e-9:
            break
    return coefficients
