"""A mixture of reward models with a router. MiCRo, Shen et al. 2025, arXiv:2505.24846.

P(i beats j) = sum_k w_k sigma(r_k(i) - r_k(j)), with weights that change with the prompt: people of several tastes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.scorer.models.gpm import GPM, LogOdds

LEAST = 1e-6  # of a probability


@dataclass(frozen=True)
class RewardMixture(GPM):
    """Reward models with a router, as `rlhf-flow train-reward reward=micro` trains; half of its outputs each."""

    @property
    def odds(self) -> LogOdds:
        return mixture_odds


def mixture_odds(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log P(first beats second) - log P(second beats first), in nats, of outputs [..., 2K]."""
    k = first.shape[-1] // 2
    logits = (first[..., k:] + second[..., k:]) / 2
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    each = sigmoid(first[..., :k] - second[..., :k])
    p = np.clip((weights * each).sum(-1) / weights.sum(-1), LEAST, 1 - LEAST)
    return np.asarray(np.log(p) - np.log1p(-p))
