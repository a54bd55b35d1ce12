"""The new answers against the start's, prompt by prompt: how often they win, and how sure that is.

Pure functions of verdicts and lengths. Intervals hold 95 %: percentile bootstraps over prompts. Length control: Dubois
et al. 2024, arXiv:2404.04475.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000  # of the prompts
RIDGE = 0.01  # on both coefficients: keeps a regression finite whose verdicts one of them separates
STEPS = 50  # of Newton's method, at most; about ten are taken


def win_rate(name: str, wins: np.ndarray, *, seed: int) -> dict[str, float]:
    """`name` with `_low` and `_high`: of P(the new answer wins) [B], NaN where the judge abstained."""
    return _with_interval(name, wins[~np.isnan(wins)], seed=seed)


def gap(name: str, proxy: np.ndarray, wins: np.ndarray, *, seed: int) -> dict[str, float]:
    """`name` with `_low` and `_high`: the win rate by one judge [B] less that by the other [B].

    Paired, over the prompts of which both judges said something. Judges that differ in how sure they are differ in
    their win rates too: of the same preferences, one who says 0 or 1 has a rate further from 1/2 than one who says 0.6.
    """
    difference = proxy - wins
    return _with_interval(name, difference[~np.isnan(difference)], seed=seed)


def length_drift(name: str, start: np.ndarray, new: np.ndarray, *, seed: int) -> dict[str, float]:
    """`name` with `_low` and `_high`: the mean length of the new answers [B] over that of the start's [B]."""
    if not start.any():
        return {}
    means = _resampled(start, seed=seed), _resampled(new, seed=seed)  # the same prompts in both
    known = means[0] > 0
    low, high = np.quantile(means[1][known] / means[0][known], [0.025, 0.975])
    return {name: float(new.mean() / start.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def length_controlled(wins: np.ndarray, longer: np.ndarray) -> float | None:
    """P(the new answer wins), were it as long as the start's: a logistic regression's prediction there.

    Of the prompts with a verdict, wins [B] is regressed on x = tanh(d / s), where d = `longer` [B] is how many tokens
    the new answer has more than the start's, and s the root of the mean of d squared: P(win) = sigma(a + b x), which at
    d = 0 is sigma(a). Fitted by maximum likelihood with a penalty of RIDGE / 2 * (a^2 + b^2), by Newton's method.

    That is the paper's model for a single policy, without its term for how hard each prompt is; there s is the
    standard deviation, which is 0 where all answers are longer by as much.

    None where no answer is as long as the start's or shorter, or none as long or longer: what would happen at equal
    length is then not among what was seen.
    """
    known = ~np.isnan(wins)
    wins, longer = wins[known].astype(np.float64), longer[known].astype(np.float64)
    if not wins.size or longer.min() > 0 or longer.max() < 0:
        return None
    scale = np.sqrt((longer**2).mean())
    x = np.tanh(longer / scale) if scale > 0 else longer
    intercept, _ = _logistic(np.stack([np.ones_like(x), x], axis=-1), wins)
    return float(1 / (1 + np.exp(-intercept)))


def _logistic(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The coefficients [K] that maximise the penalised likelihood of target [B] in [0, 1], given design [B, K]."""

    def loss(coefficients: np.ndarray) -> float:
        odds = design @ coefficients  # [B]
        return float((np.logaddexp(0, odds) - target * odds).sum() + RIDGE / 2 * (coefficients**2).sum())

    coefficients = np.zeros(design.shape[1])
    for _ in range(STEPS):
        said = 1 / (1 + np.exp(-design @ coefficients))
        gradient = design.T @ (said - target) + RIDGE * coefficients
        curvature = (design * (said * (1 - said))[:, None]).T @ design + RIDGE * np.eye(design.shape[1])
        step = np.linalg.solve(curvature, gradient)
        while loss(coefficients - step) > loss(coefficients):  # too far: what was curved there is flat here
            step = step / 2
        coefficients = coefficients - step
        if np.abs(step).max() < 1e-9:
            break
    return coefficients


def _with_interval(name: str, values: np.ndarray, *, seed: int) -> dict[str, float]:
    """The mean of values [B] and its interval; nothing of nothing."""
    if not values.size:
        return {}
    low, high = np.quantile(_resampled(values, seed=seed), [0.025, 0.975])
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def _resampled(values: np.ndarray, *, seed: int) -> np.ndarray:
    """The means of RESAMPLES resamples of the values [B]. What is picked depends on B and the seed alone."""
    picks = np.random.default_rng(seed).integers(0, values.size, size=(RESAMPLES, values.size))
    means: np.ndarray = values[picks].mean(-1)
    return means
