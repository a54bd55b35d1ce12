"""What the learner computes from the logits at each position of a response.

Entropy and mass of the most likely tokens indicate likelihood over-optimisation: Shi et al. 2024, arXiv:2410.11677.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

TOP = 10  # tokens: the paper's k
ROWS = 128

Reader: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # logits [M, V], targets [M] -> [M, ...]


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """The log-probs [M] of the targets."""
    return logits.gather(1, targets[:, None])[:, 0] - log_sum(logits)


def log_sum(logits: Tensor) -> Tensor:
    """log sum exp [M], a few rows at a time: it makes a copy of them."""
    return torch.cat([rows.logsumexp(-1) for rows in logits.split(ROWS)])


def spread(logits: Tensor, targets: Tensor) -> Tensor:
    """[M, 4]: log-prob of the target, entropy and mass of the TOP most likely tokens (or all), whether it is the first.

    With their probabilities p_1..p_k: the mass is M = sum p_i, in (0, 1]; the entropy is -sum q_i log q_i with
    q = p / M, in nats, in [0, log k]. Normalising by M makes the entropy independent of the mass.
    """
    top = logits.log_softmax(-1).topk(min(TOP, logits.shape[-1]), dim=-1).values  # [M, k]
    mass = top.logsumexp(-1, keepdim=True)  # [M, 1], its log
    entropy = torch.special.entr((top - mass).exp()).sum(-1)  # [M]
    first = logits.gather(1, targets[:, None])[:, 0] >= logits.amax(-1)  # [M]
    return torch.stack([token_logps(logits, targets), entropy, mass[:, 0].exp(), first.to(entropy.dtype)], dim=-1)
