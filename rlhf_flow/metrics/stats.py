"""Statistics that several metrics use: intervals, sigmoid, logistic regression."""

from __future__ import annotations

import math
from statistics import NormalDist

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


def quantile_of(confidence: float) -> float:
    """z with P(|Z| < z) = confidence for a standard normal Z."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def student_quantile_of(confidence: float, freedom: int) -> float:
    """t with P(|T| < t) = confidence for Student's T with so many degrees of freedom.

    Wallace 1959, "Bounds on normal approximations to Student's and the chi-square distributions". From 5 degrees of
    freedom on, and for a confidence of up to 0.999, within 3 % of t; with fewer it is too large.
    """
    z = quantile_of(confidence) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(z**2 / freedom))


def share_interval(
    sums: np.ndarray, counts: np.ndarray | None = None, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The share p = sums.sum() / counts.sum(), and the ends of its interval. 0 <= sums [B] <= counts [B].

    Wilson's score interval (1927), with the n of as many independent verdicts of 0 or 1 as would give p the variance
    that it has over the B units (prompts). A quarter of a verdict keeps that from being 0 if all units agree. So
    verdicts of 0 or 1 have Wilson's interval, probabilities a narrower one, several alike verdicts of a prompt a wider
    one, and none has width 0. Without `counts`, each unit has one verdict.
    """
    counts = np.ones_like(sums) if counts is None else counts
    n = counts.sum()
    p = sums.sum() / n
    binomial = n * p * (1 - p)
    dispersion = (((sums - p * counts) ** 2).sum() + 0.25) / (binomial + 0.25)
    z2 = quantile_of(confidence) ** 2 * dispersion / n
    centre = (p + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
    return float(p), float(max(0.0, centre - half)), float(min(1.0, centre + half))


def with_interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def share_with_interval(name: str, sums: np.ndarray, counts: np.ndarray | None = None) -> dict[str, float]:
    """A share with its interval of 95 %; empty if there are no values."""
    if not (sums.size if counts is None else counts.sum()):
        return {}
    return with_interval(name, *share_interval(sums, counts))


def difference_with_interval(
    name: str, sums: np.ndarray, counts: np.ndarray | None = None, *, confidence: float = 0.95
) -> dict[str, float]:
    """As `share_with_interval`, of a mean of differences: -counts <= sums <= counts."""
    counts = np.ones_like(sums) if counts is None else counts
    if not counts.sum():
        return {}
    ends = share_interval((sums + counts) / 2, counts, confidence=confidence)
    return with_interval(name, *(2 * end - 1 for end in ends))


def mean_with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """The mean of unbounded values [B] with its interval of 95 % by the normal distribution; empty without values."""
    if not values.size:
        return {}
    mean = float(values.mean())
    half = quantile_of(0.95) * float(values.std()) / max(1, values.size - 1) ** 0.5
    return with_interval(name, mean, mean - half, mean + half)


def ratio_with_interval(name: str, sums: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """sums.sum() / counts.sum() of unbounded sums [B], with its interval of 95 %; empty without counts.

    The interval is by the normal distribution, with the variance of the ratio estimator over the B units.
    """
    total = counts.sum()
    if not total:
        return {}
    ratio = float(sums.sum() / total)
    errors = (sums - ratio * counts) * sums.size / total
    _, low, high = mean_with_interval(name, errors).values()  # around 0
    return with_interval(name, ratio, ratio + low, ratio + high)


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
