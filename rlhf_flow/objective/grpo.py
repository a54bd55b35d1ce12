"""GRPO: advantages in standard deviations of the group. Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.objective.groups import advantage, spread
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.objective.rloo import check_policy_gradient, policy_gradient_needs
from rlhf_flow.types import GroupLogps, Loss, Needs

TINY = 1e-6  # added to the standard deviation


@dataclass(frozen=True)
class GRPO(Constant):
    """PPO's clipped surrogate of every token, with the standardised worth of its answer as advantage, plus a KL.

    The mean over the tokens of an answer, then over the group. The KL to the reference is the estimate
    pi_ref / pi - log(pi_ref / pi) - 1 of each token. A group without spread has no gradient but the KL's.
    """

    usual_rate: ClassVar[float] = 2.0  # 1e-6 for 7 B
    beta: float = 0.04  # weight of the KL
    clip: float | None = 0.2  # of a token's ratio to [1 - clip, 1 + clip]; null: none

    def __post_init__(self) -> None:
        check_policy_gradient(self.beta, self.clip)

    @property
    def needs(self) -> Needs:
        return policy_gradient_needs(self.beta)

    def loss(self, groups: GroupLogps) -> Loss:
        """The surrogate of each group [G], of which only the gradient is meaningful, and its metrics.

        `kl` = the mean estimate of the KL of a token, `worth` = the mean worth, `spread` = its standard deviation.
        """
        import torch

        current, mask = groups.current, groups.current.mask  # [A, T]
        gained = (advantage(groups) / (spread(groups) + TINY)[groups.group])[:, None]  # [A, 1]
        ratio = (current.values - groups.anchors["previous"].values).masked_fill(~mask, 0).exp()
        gain = ratio * gained
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * gained)
        kl = torch.zeros_like(gain)
        if self.beta > 0:
            back = (groups.anchors["reference"].values - current.values).masked_fill(~mask, 0)
            kl = back.exp() - back - 1
        lengths = mask.sum(-1).clamp(min=1)
        loss, penalty = ((values * mask).sum(-1) / lengths for values in (self.beta * kl - gain, kl))  # [A]
        metrics = {"kl": groups.mean(penalty.detach()), "worth": groups.mean(groups.worth), "spread": spread(groups)}
        return Loss(groups.mean(loss), metrics)
