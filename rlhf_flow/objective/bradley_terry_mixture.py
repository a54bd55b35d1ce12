"""The loss of a mixture of reward models with a router. MiCRo, Shen et al. 2025, arXiv:2505.24846, eq. 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.objective.bradley_terry import numbers
from rlhf_flow.objective.log_ratios import Constant, pair_metrics
from rlhf_flow.types import Loss, Needs, PairLogps

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BradleyTerryMixture(Constant):
    """Cross-entropy of P = sum_k w_k sigma(r_k(y_1) - r_k(y_2)) against the label.

    A response has 2K outputs: K rewards, and K logits of the router. The weights w are the softmax of the mean logits
    of both responses, so they change with the prompt but not with the order. `balance` times
    sum_k mean(w_k) log mean(w_k) over the batch keeps all K in use.
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 for 7 B

    balance: float = 0.01  # nats; 0: off

    def __post_init__(self) -> None:
        if not self.balance >= 0:
            raise ValueError(f"objective.balance must be >= 0, got {self.balance}. 0 turns it off.")

    @property
    def needs(self) -> Needs:
        return Needs(readout="mixture")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats; `margin` = the log-odds of the preferred side, `accuracy`, and
        `router` = the entropy of the weights.
        """
        import torch
        from torch.nn.functional import binary_cross_entropy

        first, second = numbers(pairs.current.first), numbers(pairs.current.second)  # [P, 2K]
        weights = router(first, second)  # [P, K]
        p = probability(first, second)  # [P]
        used = weights.mean(0)
        metrics = pair_metrics(torch.logit(p), -torch.logit(p), pairs.preference, scale=0.5)
        spread = -torch.special.xlogy(weights, weights).sum(-1).detach()
        values = binary_cross_entropy(p, pairs.preference.to(p.dtype), reduction="none")
        values = values + self.balance * torch.special.xlogy(used, used).sum()
        return Loss(values, {"margin": metrics["margin"], "accuracy": metrics["accuracy"], "router": spread})


def router(first: Tensor, second: Tensor) -> Tensor:
    """The weights of the K reward models [..., K], from outputs [..., 2K]."""
    _, logits = ((first + second) / 2).chunk(2, dim=-1)
    weights: Tensor = logits.softmax(-1)
    return weights


def probability(first: Tensor, second: Tensor) -> Tensor:
    """P(first beats second) [...], from outputs [..., 2K]."""
    gaps, _ = (first - second).chunk(2, dim=-1)
    p: Tensor = (router(first, second) * gaps.sigmoid()).sum(-1)
    return p.clamp(1e-6, 1 - 1e-6)
