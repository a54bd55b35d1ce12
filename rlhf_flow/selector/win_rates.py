"""The win rate of an answer against those it competes with: P(y beats pi), estimated.

SPPO, Wu et al. 2024, arXiv:2405.00675: the mean over the answers to the same prompt, itself included as 1/2.
"""

from __future__ import annotations

import numpy as np

from rlhf_flow.types import Scored


def win_rates(scored: Scored, opponent: str | None) -> np.ndarray:
    """float64 [B, N]: the mean of P(i beats j) over all answers j of the draw `opponent` (None: of all draws).

    Each j counts by its mass; cut answers compete too, for they are samples of the policy like any other. Against
    itself an answer has 1/2, where it is among them. Abstentions are left out; NaN where nothing is left.
    """
    wins = np.array(scored.wins, dtype=np.float64)  # [B, N, N]: a copy
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
