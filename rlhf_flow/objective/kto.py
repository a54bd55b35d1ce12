"""KTO: each answer alone is desirable or not. Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.groups import advantage, log_ratio
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class KTO(Constant):
    """1 - sigma(beta (rho - z)) of a desirable answer, 1 - sigma(beta (z - rho)) of another; rho: its log-ratio.

    An answer is desirable if its worth is above `threshold`, or above the mean of its group. Without a threshold the
    answers of a group whose worths are all equal are neither, and weigh 0: such a group does not say whether all are
    good or all are bad. The reference point z = max(0, KL(pi || pi_ref)), without gradient, is the mean log-ratio of
    the answers to the prompt: they are samples of the policy. The paper estimates it from mismatched pairs of a batch,
    since its answers come from a data set.
    """

    beta: float = 0.1  # strength of the KL to the reference
    desirable: float = 1.0  # weight of desirable answers
    undesirable: float = 1.0  # weight of the others
    threshold: float | None = None  # worth above which an answer is desirable; null: the group's mean

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not (self.desirable > 0 and self.undesirable > 0):
            raise ValueError(
                f"objective.desirable and objective.undesirable must be > 0, got {self.desirable} and "
                f"{self.undesirable}. With fewer desirable answers their weight is larger."
            )

    @property
    def needs(self) -> Needs:
        return Needs(
            anchors=frozenset({"reference"}),
            sampled={"policy": "policy"},
            examples="groups",
            side_value="any",
            on_policy=True,
        )

    def loss(self, groups: GroupLogps) -> Loss:
        """The loss of each group [G], and its metrics: `z`, and `desirable`, the share of such answers."""
        import torch

        rho = log_ratio(groups, "reference")  # [A]
        z = groups.mean(rho).detach().clamp(min=0)  # [G]
        above = advantage(groups) if self.threshold is None else groups.worth - self.threshold  # [A]
        good = (above > 0).to(rho.dtype)  # [A]
        sign, weight = 2 * good - 1, good * self.desirable + (1 - good) * self.undesirable
        if self.threshold is None:
            weight = weight * (groups.sum(above.abs()) > 0)[groups.group]
        values = weight * (1 - torch.sigmoid(sign * self.beta * (rho - z[groups.group])))  # [A]
        return Loss(groups.mean(values), {"z": z, "desirable": groups.mean(good)})
