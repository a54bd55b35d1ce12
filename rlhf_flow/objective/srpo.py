"""SRPO: a policy and its own reviser. Choi et al. 2024, arXiv:2406.01660, eq. 10 to 12."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.groups import log_ratio
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs

ORDER = "w, l, w|l, l|l, w|w, l|w"  # w the chosen answer, l the rejected one; a|b: a as a revision of b


@dataclass(frozen=True)
class SRPO(Constant):
    """Squares of three conditions that hold at the optimum of the game of a policy and the best reviser of its answers.

    With rho(y) the log-ratio of an answer to the reference, and rho(a|b) that of a as a revision of b:

        beta (rho(w|l) - rho(l|l)) = P(w > l) - 1/2      beta (rho(w|w) - rho(l|w)) = P(w > l) - 1/2
        beta (rho(w) - rho(l) + rho(w|l) - rho(l|w)) = 2 P(w > l) - 1

    A group is the six answers `w, l, w|l, l|l, w|w, l|w`, in that order.
    """

    beta: float = 0.1  # strength of both KLs to the reference, in units of a probability
    alpha: float = 0.5  # weight of the last condition, in [0, 1]

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"objective.beta must be > 0, got {self.beta}. It is the strength of the KLs: 0.1.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"objective.alpha must be in [0, 1], got {self.alpha}. It weighs the policy's condition.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}), examples="groups", order="drawn")

    def loss(self, groups: GroupLogps) -> Loss:
        """The loss of each group [G]; `margin` = beta (rho(w) - rho(l)), `improvement` = beta (rho(w|l) - rho(l|l)).

        The label is that the first answer won. Raises ValueError for groups of another size.
        """
        if len(groups.group) != 6 * len(groups.weight):
            raise ValueError(f"the objective reads groups of the six answers {ORDER}. Fix: algorithm=srpo.")
        scaled = self.beta * log_ratio(groups, "reference").unflatten(0, (-1, 6))  # [G, 6]
        w, l, w_l, l_l, w_w, l_w = scaled.unbind(1)  # noqa: E741  # the paper's names
        reviser = (w_l - l_l - 0.5) ** 2 + (w_w - l_w - 0.5) ** 2
        policy = (w - l + w_l - l_w - 1) ** 2
        metrics = {"margin": (w - l).detach(), "improvement": (w_l - l_l).detach()}
        return Loss((1 - self.alpha) * reviser + self.alpha * policy, metrics)
