"""Win rates of the new responses against the start's, with 95 % intervals over prompts.

Length control: Dubois et al. 2024, arXiv:2404.04475.
"""

from __future__ import annotations

import numpy as np

from rlhf_flow.metrics.stats import (
    RIDGE,
    difference_with_interval,
    logistic_regression,
    quantile_of,
    share_with_interval,
    sigmoid,
    student_quantile_of,
    with_interval,
)

FARTHEST = 40.0  # log-odds, or logarithm of a ratio, of the widest interval
HALVINGS = 50  # of a bisection


def win_rate(name: str, wins: np.ndarray) -> dict[str, float]:
    """`name` with `_low` and `_high`: the mean of P(the new response wins) [B], without abstentions (NaN)."""
    return share_with_interval(name, wins[~np.isnan(wins)].astype(np.float64))


def gap(name: str, one: np.ndarray, other: np.ndarray, *, confidence: float = 0.95) -> dict[str, float]:
    """`name` with `_low` and `_high`: one win rate [B] minus another [B], paired by prompt.

    Over the prompts on which neither abstained. Scorers that differ in confidence differ in their win rates too: of the
    same preferences, verdicts of 0 or 1 give a rate further from 1/2 than verdicts of 0.4 or 0.6.
    """
    difference = one.astype(np.float64) - other
    return difference_with_interval(name, difference[~np.isnan(difference)], confidence=confidence)


def length_drift(name: str, start: np.ndarray, new: np.ndarray, *, confidence: float = 0.95) -> dict[str, float]:
    """`name` with `_low` and `_high`: how many times as long as the start's response [B] the new one [B] is.

    The geometric mean over prompts, with Student's interval of the logarithms: of the ratio of the mean lengths, a few
    long responses decide. A response without tokens counts as one token. Empty with fewer than two prompts.
    """
    if len(new) < 2:
        return {}
    logs = np.log(np.maximum(new, 1)) - np.log(np.maximum(start, 1))
    mean, error = logs.mean(), logs.std(ddof=1) / np.sqrt(len(logs))
    half = student_quantile_of(confidence, len(logs) - 1) * error
    return with_interval(name, *np.exp(np.clip([mean, mean - half, mean + half], -FARTHEST, FARTHEST)))


def length_controlled(name: str, wins: np.ndarray, longer: np.ndarray) -> dict[str, float]:
    """`name` with `_low` and `_high`: P(the new response wins) at equal length, by logistic regression.

    wins [B] is regressed on x = tanh(d / s): d = `longer` [B] is how many tokens the new response has more than the
    start's, s the root mean square of d. P(win) = sigma(a + b x), which is sigma(a) at d = 0. This is the paper's model
    for a single policy, without its term for the difficulty of each prompt; its s is the standard deviation, which is 0
    if all responses are longer by the same number.

    The interval holds the a that a score test does not reject, as Wilson's does without x. Empty if all new responses
    are longer than the start's, or all are shorter: equal length would be an extrapolation.
    """
    known = ~np.isnan(wins)
    wins, longer = wins[known].astype(np.float64), longer[known].astype(np.float64)
    if not wins.size or longer.min() > 0 or longer.max() < 0:
        return {}
    scale = np.sqrt((longer**2).mean())
    x = np.tanh(longer / scale) if scale > 0 else longer
    best, slope = logistic_regression(np.stack([np.ones_like(x), x], axis=-1), wins)
    p = sigmoid(best + slope * x)
    dispersion = (((wins - p) ** 2).sum() + 0.25) / ((p * (1 - p)).sum() + 0.25)  # as in `stats.share_interval`
    most = quantile_of(0.95) ** 2 * dispersion
    low, high = (_farthest(wins, x, float(best), towards, most=float(most)) for towards in (-FARTHEST, FARTHEST))
    return with_interval(name, float(sigmoid(best)), float(sigmoid(low)), float(sigmoid(high)))


def _farthest(wins: np.ndarray, x: np.ndarray, best: float, towards: float, *, most: float) -> float:
    """The intercept farthest from the best one, in a direction, whose score statistic is at most `most`."""
    kept, rejected = best, towards
    if _score(wins, x, rejected) <= most:
        return rejected
    for _ in range(HALVINGS):
        middle = (kept + rejected) / 2
        kept, rejected = (middle, rejected) if _score(wins, x, middle) <= most else (kept, middle)
    return kept


def _score(wins: np.ndarray, x: np.ndarray, intercept: float) -> float:
    """The score statistic of an intercept: U^2 / Var(U), with the slope at its best for this intercept."""
    slope = 0.0
    for _ in range(HALVINGS):
        p = sigmoid(intercept + slope * x)
        step = ((wins - p) @ x - RIDGE * slope) / ((p * (1 - p)) @ x**2 + RIDGE)
        slope += float(np.clip(step, -2, 2))
        if abs(step) < 1e-9:
            break
    p = sigmoid(intercept + slope * x)
    weight = p * (1 - p)
    information = weight.sum() - (weight @ x) ** 2 / (weight @ x**2 + RIDGE)
    # At the ends of the search p is 0 or 1 in all digits: there the score is 0 if so are the wins.
    return float((wins - p).sum() ** 2 / max(information, 1e-12))
