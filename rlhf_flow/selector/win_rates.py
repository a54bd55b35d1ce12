"""Estimated win rates P(y beats pi).

SPPO, Wu et al. 2024, arXiv:2405.00675: the mean over the responses to the same prompt, itself included as 1/2.
"""

from __future__ import annotations

import numpy as np

from rlhf_flow.metrics.strengths import imputed
from rlhf_flow.types import Scored


def win_rates(scored: Scored, opponent: str | None) -> np.ndarray:
    """float64 [B, N]: the mean of P(i beats j) over all responses j of the draw `opponent` (None: of all draws).

    Weighted by the mass of j. Truncated responses count too: they are samples of the policy. A response against itself
    has 1/2. Pairs that the scorer's schedule left out have the probability of fitted strengths. Abstentions are left
    out; NaN if nothing is left.
    """
    wins = np.array(scored.wins, dtype=np.float64)  # [B, N, N]: a copy
    unasked = scored.pair_flags.get("unasked")
    if unasked is not None and unasked.any():
        wins = np.stack([imputed(one, left_out) for one, left_out in zip(wins, unasked, strict=True)])
    shape = wins.shape[:2]
    mass = [
        one.mass if opponent is None or one.draw.name == opponent else 0.0
        for group in scored.rollouts.responses
        for one in group
    ]
    itself = np.arange(shape[1])
    wins[:, itself, itself] = 0.5
    known = ~np.isnan(wins)
    weight = known * np.array(mass).reshape(shape)[:, None, :]  # [B, N, N]
    total = weight.sum(-1)  # [B, N]
    rates = (np.where(known, wins, 0.0) * weight).sum(-1)
    mean: np.ndarray = np.divide(rates, total, out=np.full(shape, np.nan), where=total > 0)
    return mean
