"""Asymmetric REINFORCE. Arnal et al. 2025, arXiv:2506.20520, eq. 2."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.groups import advantage
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class AsymRE(Constant):
    """The mean of -(r_i - r_mean - shift) log pi(y_i) over the answers to a prompt, without importance weights.

    With shift < 0 good answers count more than bad ones. On answers of another policy, training is stable for a
    negative shift, and collapses once the shift is 0 or more.
    """

    shift: float = -0.1  # of the baseline from the group's mean, in units of the worth: delta V of the paper

    @property
    def needs(self) -> Needs:
        return Needs(examples="groups", side_value="any")

    def loss(self, groups: GroupLogps) -> Loss:
        """The surrogate of each group [G], of which only the gradient is meaningful; `worth` = its mean."""
        gained = advantage(groups) - self.shift  # [A]
        return Loss(-groups.mean(gained * groups.current.sum), {"worth": groups.mean(groups.worth)})
