"""Online policy mirror descent with the group's mean as normaliser. Kimi k1.5, 2025, arXiv:2501.12599, eq. 3."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.groups import advantage, log_ratio
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class OPMD(Constant):
    """The mean of (r_i - r_mean - tau a_i)^2 / (2 tau) over the answers to a prompt, with a = log pi - log pi_t.

    r_mean takes the place of tau log Z in the step pi_t exp(r / tau), normalised, of mirror descent. The gradient is
    that of (r_i - r_mean) log pi less tau/2 a^2, so the answers may be those of an earlier policy.
    """

    tau: float = 0.1  # strength of the KL to the last policy, in units of the worth

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"objective.tau must be > 0, got {self.tau}. It is 1 / step size, in units of the worth.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"previous"}), examples="groups", side_value="any")

    def loss(self, groups: GroupLogps) -> Loss:
        """The loss of each group [G], in units of the worth; `worth` = its mean, `moved` = the mean of |a|, nats."""
        a = log_ratio(groups, "previous")  # [A]
        values = groups.mean((advantage(groups) - self.tau * a) ** 2) / (2 * self.tau)
        return Loss(values, {"worth": groups.mean(groups.worth), "moved": groups.mean(a.detach().abs())})
