"""TRPA: pairs of answers at different levels. Su et al. 2025, arXiv:2504.04524; with constants of its code."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.groups import log_ratio
from rlhf_flow.objective.log_ratios import Constant, cross_entropy
from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class TRPA(Constant):
    """The mean of -log sigma(c beta (rho_i - rho_j)) over all answers i at a better level than j, plus a KL.

    rho is the mean log-ratio of a token to the reference, and a level is the worth, such as a rule's. c is `best` if i
    is at the highest level of the round's scorer (worth >= `highest`), else 1. The KL to the last policy is that of
    tokens, pi_t / pi - log(pi_t / pi) - 1, whose mean is the KL on samples of the policy.
    """

    beta: float = 0.1  # strength of the KL to the reference
    best: float = 2.5  # factor of pairs whose better answer is at the highest level
    highest: float = 1.0  # worth of the highest level
    kl: float = 0.001  # weight of the KL to the last policy

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not (self.best > 0 and self.kl >= 0):
            raise ValueError(f"objective.best must be > 0 and objective.kl >= 0, got {self.best} and {self.kl}")

    @property
    def needs(self) -> Needs:
        return Needs(
            anchors=frozenset({"reference", "previous"}),
            sampled={"policy": "previous"} if self.kl > 0 else {},
            examples="groups",
            side_value="utility",
            on_policy=self.kl > 0,
        )

    def loss(self, groups: GroupLogps) -> Loss:
        """The loss of each group [G], in nats, and its metrics: `kl`, and `pairs`, the number of pairs."""
        import torch

        rho = log_ratio(groups, "reference", reduction="mean")  # [A]
        better = (groups.group[:, None] == groups.group) & (groups.worth[:, None] > groups.worth)  # [A, A]
        i, j = better.nonzero(as_tuple=True)
        factor = 1 + (self.best - 1) * (groups.worth[i] >= self.highest).to(rho.dtype)
        loss = cross_entropy(factor * self.beta * (rho[i] - rho[j]))
        of_group, zeros = groups.group[i], groups.worth.new_zeros(len(groups.weight))
        number = zeros.index_add(0, of_group, torch.ones_like(loss))
        mean = zeros.index_add(0, of_group, loss) / number.clamp(min=1)
        mask = groups.current.mask
        back = (groups.anchors["previous"].values - groups.current.values).masked_fill(~mask, 0)
        kl = groups.mean((back.exp() - back - 1).sum(-1) / mask.sum(-1).clamp(min=1))
        return Loss(mean + self.kl * kl, {"kl": kl.detach(), "pairs": number})
