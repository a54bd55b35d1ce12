"""Length penalty on the judge's scores.

RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, eq. 9: the reward minus a penalty times the length, there in
characters; for preferences, the log-odds minus the penalty times the difference in length.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.types import Scored

NEAR = 1e-5  # rounding error of a float32 mean
CERTAIN = 1e-6  # win rates are clipped to [CERTAIN, 1 - CERTAIN] before log-odds


def penalised(scored: Scored, per_token: float, missing_eos: float = 0.0) -> Scored:
    """Utilities and wins with a cost of `per_token` for each token of a response, and of `missing_eos` if it was cut.

    NaN stays NaN.

    Utility: minus the response's cost. If it is a win rate (a judge of pairs): its log-odds minus the cost above the
    prompt's mean. Wins: the log-odds minus the difference of the costs, so sigma(u_i - u_j) holds for the new utilities
    if it held for the old ones. A verdict of 0 or 1 has no finite log-odds: the response with the higher new utility
    wins.
    """
    if per_token == missing_eos == 0:
        return scored
    costs = [
        [per_token * len(one.tokens) + missing_eos * one.truncated for one in group]
        for group in scored.rollouts.responses
    ]
    cost = np.array(costs, dtype=np.float64).reshape(scored.utility.shape)  # [B, N]
    if _of_pairs(scored):
        rate = np.clip(np.asarray(scored.utility, dtype=np.float64), CERTAIN, 1 - CERTAIN)
        utility = sigmoid(np.log(rate) - np.log1p(-rate) - cost + cost.mean(-1, keepdims=True))
    else:
        utility = scored.utility - cost
    wins = np.asarray(scored.wins, dtype=np.float64)  # [B, N, N]
    lost = wins.swapaxes(1, 2)
    certain = (wins == 0) | (lost == 0)
    odds = np.log(np.where(certain, 1, wins)) - np.log(np.where(certain, 1, lost))  # exactly antisymmetric
    shifted = sigmoid(odds - (cost[:, :, None] - cost[:, None, :]))
    higher = (np.sign(utility[:, :, None] - utility[:, None, :]) + 1) / 2
    return replace(scored, utility=utility, wins=np.where(certain, higher, shifted))


def _of_pairs(scored: Scored) -> bool:
    """Whether the utility is the mean of the wins, or estimated from some of them."""
    known = ~np.isnan(scored.wins)
    total = np.where(known, scored.wins, 0.0).sum(-1)  # [B, N]
    missed = abs(scored.utility * known.sum(-1) - total)
    return "unasked" in scored.pair_flags or bool((missed <= NEAR * total).all())
