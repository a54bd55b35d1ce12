"""Ratings of several policies from comparisons of their answers, as strengths and on the scale of Elo."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhf_flow.metrics.stats import resampled_sums
from rlhf_flow.metrics.strengths import strengths

POINTS = 400 / math.log(10)  # of Elo per nat of strength
MEAN = 1000.0  # points of the mean policy
FITS = 400  # resamples of the prompts, each with a fit of its own


@dataclass(frozen=True)
class Rating:
    """The strength of one policy above the mean of all, in nats, with its 95 % interval."""

    strength: float
    low: float
    high: float

    @property
    def elo(self) -> tuple[float, float, float]:
        """Points, and the ends of their interval. The mean of all policies is 1000."""
        value, low, high = (MEAN + POINTS * each for each in (self.strength, self.low, self.high))
        return value, low, high


def ratings(wins: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0) -> list[Rating]:
    """The rating of each of K policies from wins [B, K, K] = P(i beats j) on each prompt; NaN is no verdict.

    `weights` [B, K, K]: the number of verdicts in each of them; None: one. The model of Bradley and Terry, 1952, fitted
    to the win rates over the prompts. Intervals are percentiles of a bootstrap over prompts, which keeps the verdicts
    on one prompt together. Each resample has one verdict more on each pair, drawn from Jeffreys' prior, so that no
    interval has width 0 if all verdicts agree.
    """
    counts = np.isfinite(wins) * (1.0 if weights is None else weights)
    sums = np.moveaxis(np.stack([np.nan_to_num(wins) * counts, counts]), 1, -1)  # [2, K, K, B]
    fits = resampled_sums(sums, seed=seed)[..., :FITS]
    fits = fits + _one_more(sums.sum(-1)[1], seed)
    resampled = np.array([_centred(*fits[..., at]) for at in range(fits.shape[-1])])  # [R, K]
    values, (low, high) = _centred(*sums.sum(-1)), np.quantile(resampled, [0.025, 0.975], axis=0)
    low, high = np.minimum(low, values), np.maximum(high, values)  # of a policy that is never beaten
    return [Rating(*map(float, each)) for each in zip(values, low, high, strict=True)]


def _one_more(counts: np.ndarray, seed: int) -> np.ndarray:
    """A random verdict on each pair that has any: its share of a win and its count, float64 [2, K, K, R]."""
    shares = np.random.default_rng(seed).beta(0.5, 0.5, (*counts.shape, FITS))  # of Jeffreys' prior
    above = np.triu(np.ones_like(counts), 1)[..., None]
    shares = above * shares + (1 - above) * (1 - np.swapaxes(shares, 0, 1))  # wins + wins.T = 1 off the diagonal
    known = (counts > 0)[..., None]
    return np.stack([shares * known, np.broadcast_to(known, shares.shape).astype(np.float64)])


def _centred(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Strengths [K] with mean 0, of win rates sums / counts [K, K]."""
    rates = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    fitted = strengths(rates)
    centred: np.ndarray = fitted - fitted.mean()
    return centred
