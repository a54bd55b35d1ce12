"""Win rates of the new responses against the start's, with 95 % bootstrap intervals over prompts.

Length control: Dubois et al. 2024, arXiv:2404.04475.
"""

from __future__ import annotations

import numpy as np

from rlhf_flow.metrics.stats import logistic_regression, mean_with_interval, resampled_sums, sigmoid, with_interval


def win_rate(name: str, wins: np.ndarray, *, seed: int) -> dict[str, float]:
    """`name` with `_low` and `_high`: the mean of P(the new response wins) [B], without abstentions (NaN)."""
    return mean_with_interval(name, wins[~np.isnan(wins)], seed=seed)


def gap(name: str, proxy: np.ndarray, wins: np.ndarray, *, seed: int) -> dict[str, float]:
    """`name` with `_low` and `_high`: the win rate by one scorer [B] minus that by another [B].

    Paired, over the prompts on which neither abstained. Scorers that differ in confidence differ in their win rates
    too: of the same preferences, verdicts of 0 or 1 give a rate further from 1/2 than verdicts of 0.4 or 0.6.
    """
    return win_rate(name, proxy - wins, seed=seed)


def length_drift(name: str, start: np.ndarray, new: np.ndarray, *, seed: int) -> dict[str, float]:
    """`name` with `_low` and `_high`: the mean length of the new responses [B] over that of the start's [B]."""
    if not start.any():
        return {}
    starts, news = resampled_sums(np.stack([start, new]), seed=seed)
    return with_interval(name, new.mean() / start.mean(), news[starts > 0] / starts[starts > 0])


def length_controlled(wins: np.ndarray, longer: np.ndarray) -> float | None:
    """P(the new response wins) at equal length, by logistic regression.

    wins [B] is regressed on x = tanh(d / s): d = `longer` [B] is how many tokens the new response has more than the
    start's, s the root mean square of d. P(win) = sigma(a + b x), which is sigma(a) at d = 0. This is the paper's model
    for a single policy, without its term for the difficulty of each prompt; its s is the standard deviation, which is 0
    if all responses are longer by the same number.

    None if all new responses are longer than the start's, or all are shorter: equal length would be an extrapolation.
    """
    known = ~np.isnan(wins)
    wins, longer = wins[known].astype(np.float64), longer[known].astype(np.float64)
    if not wins.size or longer.min() > 0 or longer.max() < 0:
        return None
    scale = np.sqrt((longer**2).mean())
    x = np.tanh(longer / scale) if scale > 0 else longer
    intercept, _ = logistic_regression(np.stack([np.ones_like(x), x], axis=-1), wins)
    return float(sigmoid(intercept))
