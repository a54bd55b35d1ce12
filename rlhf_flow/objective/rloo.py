"""RLOO: REINFORCE with the other answers as baseline. Ahmadian et al. 2024, arXiv:2402.14740, eq. 8."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.groups import above_mean, advantage, count, log_ratio
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class RLOO(Constant):
    """-A_i log pi(y_i), with A_i = R_i - the mean R of the other answers and R = r - beta (log pi - log pi_ref).

    The mean over the k answers to a prompt. The ratio pi / pi_t to the policy that sampled them takes the place of
    log pi, so that later steps of a round have the importance weights of whole answers; `clip` bounds it as PPO does.
    """

    beta: float = 0.05  # strength of the KL to the reference, in units of the worth; 0: none
    clip: float | None = 0.2  # of the ratio to [1 - clip, 1 + clip]; null: none
    returns: str = "last"  # last | average (self-play by win rates): the iterate that theory returns without a KL

    def __post_init__(self) -> None:
        check_policy_gradient(self.beta, self.clip)
        if self.returns not in ("last", "average"):
            raise ValueError(f"objective.returns must be last or average, got {self.returns!r}")

    @property
    def needs(self) -> Needs:
        return policy_gradient_needs(self.beta, "last" if self.beta > 0 else self.returns)

    def loss(self, groups: GroupLogps) -> Loss:
        """The surrogate of each group [G], of which only the gradient is meaningful, and its metrics.

        `kl` = the mean log-ratio to the reference, `worth` = the mean worth, `advantage` = the mean of its size.
        """
        import torch

        ratio = log_ratio(groups, "previous").exp()  # [A]
        kl = log_ratio(groups, "reference").detach() if self.beta > 0 else torch.zeros_like(groups.worth)
        gained = advantage(groups) - self.beta * above_mean(groups, kl)  # [A], over the mean of all
        k = count(groups)[groups.group]
        gained = gained * torch.where(k.isinf(), 1.0, k / (k - 1).clamp(min=1))  # over the mean of the others
        gain = ratio * gained
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * gained)
        metrics = {"kl": groups.mean(kl), "worth": groups.mean(groups.worth), "advantage": groups.mean(gained.abs())}
        return Loss(-groups.mean(gain), metrics)


def policy_gradient_needs(beta: float, returns: str = "last") -> Needs:
    """Of a policy gradient on groups, with a KL to the reference of strength beta."""
    return Needs(
        anchors=frozenset({"previous", "reference"} if beta > 0 else {"previous"}),
        sampled={"policy": "previous"},
        examples="groups",
        side_value="any",
        on_policy=True,
        returns=returns,
    )


def check_policy_gradient(beta: float, clip: float | None) -> None:
    """Raise ValueError for a negative KL or a clip that is not positive."""
    if not beta >= 0:
        raise ValueError(f"objective.beta must be >= 0, got {beta}. It is the strength of the KL; 0 is none.")
    if clip is not None and not clip > 0:
        raise ValueError(f"objective.clip must be > 0, or null, got {clip}. It bounds the ratio; 0.2 is common.")
