"""What a token costs: the judge as it would judge if length had a price.

RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, eq. 9: the reward less a penalty times the length, there in
characters; of preferences, the log-odds less the penalty times the difference in length.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_flow.types import Scored

NEAR = 1e-5  # rounding of a mean of float32
CERTAIN = 1e-6  # a win rate closer to 0 or 1 than this has the log-odds of this


def penalised(scored: Scored, per_token: float) -> Scored:
    """Both views of answers of which each token costs `per_token`; NaN stays NaN.

    The utility less the cost of the answer; of a judge of pairs, whose utility is a win rate, its log-odds less the
    cost above the mean of the answers to the prompt. And of every two answers the log-odds less the difference of
    their costs: sigma(u_i - u_j) of the new utilities, wherever it was that of the old ones. A verdict of 0 or 1 has no
    log-odds that a cost could shift: there the answer wins whose new utility is higher.
    """
    if per_token == 0:
        return scored
    tokens = [[len(one.tokens) for one in group] for group in scored.rollouts.responses]
    cost = per_token * np.array(tokens, dtype=np.float64).reshape(scored.utility.shape)  # [B, N]
    if _of_pairs(scored):
        rate = np.clip(np.asarray(scored.utility, dtype=np.float64), CERTAIN, 1 - CERTAIN)
        utility = _sigmoid(np.log(rate) - np.log1p(-rate) - cost + cost.mean(-1, keepdims=True))
    else:
        utility = scored.utility - cost
    wins = np.asarray(scored.wins, dtype=np.float64)  # [B, N, N]
    lost = wins.swapaxes(1, 2)
    certain = (wins == 0) | (lost == 0)
    odds = np.log(np.where(certain, 1, wins)) - np.log(np.where(certain, 1, lost))  # exactly antisymmetric
    shifted = _sigmoid(odds - (cost[:, :, None] - cost[:, None, :]))
    higher = (np.sign(utility[:, :, None] - utility[:, None, :]) + 1) / 2
    return replace(scored, utility=utility, wins=np.where(certain, higher, shifted))


def _of_pairs(scored: Scored) -> bool:
    """Whether the utility is the mean of the wins, or was made up from some of them."""
    known = ~np.isnan(scored.wins)
    total = np.where(known, scored.wins, 0.0).sum(-1)  # [B, N]
    return "unasked" in scored.pair_flags or bool((abs(scored.utility * known.sum(-1) - total) <= NEAR * total).all())


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    p: np.ndarray = 1 / (1 + np.exp(-odds.clip(-700, 700)))
    return p
