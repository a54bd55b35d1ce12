"""What a response is worth, for objectives that read it; first, its win rate P(y beats pi).

SPPO, Wu et al. 2024, arXiv:2405.00675: the mean over the responses to the same prompt, itself included as 1/2.
"""

from __future__ import annotations

import numpy as np

from rlhf_flow.metrics.strengths import PRIOR, imputed
from rlhf_flow.types import Scored

WORTHS = ("wins", "log_odds", "utility", "advantage", "standardised")
CERTAIN = 1e-6  # from 0 and 1


def win_rates(scored: Scored, opponent: str | None) -> np.ndarray:
    """float64 [B, N]: the mean of P(i beats j) over all responses j of the draw `opponent` (None: of all draws).

    Weighted by the mass of j. Truncated responses count too: they are samples of the policy. A response against itself
    has 1/2. Pairs that the scorer's schedule left out have the probability of fitted strengths. Abstentions are left
    out; NaN if nothing is left.
    """
    wins = _verdicts(scored)
    itself = np.arange(wins.shape[1])
    wins[:, itself, itself] = 0.5
    return _mean_over_opponents(scored, wins, opponent)


def _verdicts(scored: Scored, prior: float = PRIOR) -> np.ndarray:
    """float64 [B, N, N]: a copy of the wins; pairs that the scorer's schedule left out are imputed."""
    wins = np.array(scored.wins, dtype=np.float64)
    unasked = scored.pair_flags.get("unasked")
    if unasked is None or not unasked.any():
        return wins
    return np.stack([imputed(one, left_out, prior) for one, left_out in zip(wins, unasked, strict=True)])


def _mean_over_opponents(scored: Scored, values: np.ndarray, opponent: str | None) -> np.ndarray:
    """[B, N]: the mean over j of values [B, N, N], weighted by the mass of j, without NaN."""
    known = ~np.isnan(values)
    weight = known * _masses(scored, opponent)[:, None, :]  # [B, N, N]
    total = weight.sum(-1)  # [B, N]
    sums = (np.where(known, values, 0.0) * weight).sum(-1)
    mean: np.ndarray = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    return mean


def _masses(scored: Scored, opponent: str | None) -> np.ndarray:
    """[B, N]: the mass of each response of the draw; 0 of others. None: of all draws."""
    mass = [
        one.mass if opponent is None or one.draw.name == opponent else 0.0
        for group in scored.rollouts.responses
        for one in group
    ]
    return np.array(mass, dtype=np.float64).reshape(scored.utility.shape)


def log_odds(scored: Scored, opponent: str | None) -> np.ndarray:
    """float64 [B, N]: as `win_rates`, the mean of log P(i beats j) - log P(j beats i), in nats.

    The score of a general preference model, Zhang et al. 2024, arXiv:2410.02197. Verdicts are clipped to [CERTAIN,
    1 - CERTAIN], and the prior of fitted strengths is as weak: that of win rates shrinks large log-odds.
    """
    wins = np.clip(_verdicts(scored, CERTAIN), CERTAIN, 1 - CERTAIN)
    odds = np.log(wins) - np.log1p(-wins)
    itself = np.arange(odds.shape[1])
    odds[:, itself, itself] = 0.0
    return _mean_over_opponents(scored, odds, opponent)


def worths(scored: Scored, kind: str, opponent: str | None) -> np.ndarray:
    """float64 [B, N]: what an objective reads of each response.

    wins          its win rate
    log_odds      its mean log-odds to win
    utility       the scorer's utility
    advantage     the utility above the mean of the responses to the prompt
    standardised  the advantage over their standard deviation; 0 if that is 0
    """
    if kind in ("wins", "log_odds"):
        return win_rates(scored, opponent) if kind == "wins" else log_odds(scored, opponent)
    utility = np.asarray(scored.utility, dtype=np.float64)
    if kind == "utility":
        return utility
    unknown = np.isnan(utility)
    mass = _masses(scored, None) * ~unknown
    total = np.maximum(mass.sum(-1, keepdims=True), 1e-300)
    lowest = np.where(unknown, np.inf, utility).min(-1, keepdims=True)
    above = utility - lowest  # of equal utilities 0, and so is the advantage: their mean may be rounded
    advantage = above - (mass * np.nan_to_num(above)).sum(-1, keepdims=True) / total
    if kind == "advantage":
        return advantage
    spread = np.sqrt((mass * np.nan_to_num(advantage) ** 2).sum(-1, keepdims=True) / total)
    standardised: np.ndarray = np.divide(advantage, spread, out=advantage * 0, where=spread > 0)  # NaN stays NaN
    return standardised
