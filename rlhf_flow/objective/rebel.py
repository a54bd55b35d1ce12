"""REBEL: regression to relative rewards. Gao et al. 2024, arXiv:2404.16767, eq. 6."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, check_reduction, log_ratios, pair_metrics, side_values
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class REBEL(Constant):
    """((a(y) - a(y')) / eta - (r(y) - r(y')))^2, with a = log pi - log pi_t and r the scorer's reward.

    pi_t is the policy that the round starts from. The minimiser is pi_t exp(eta r), normalised: a natural policy
    gradient step without a critic. The pair's label is not read.
    """

    eta: float = 1.0  # step size, nats per unit of reward
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ValueError(f"objective.eta must be > 0, got {self.eta}. It is the step size: smaller stays nearer.")
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"previous"}), side_value="utility")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in squared units of reward, its metrics and `target`, of h at the minimum."""
        import torch

        first, second = log_ratios(pairs, "previous", reduction=self.reduction)  # [P]
        better, worse = side_values(pairs)
        gap = better - worse
        values = ((first - second) / self.eta - gap) ** 2  # [P]
        metrics = pair_metrics(first, second, (1 + torch.sign(gap)) / 2, scale=1 / self.eta)
        return Loss(values, {**metrics, "target": (self.eta * gap).abs()})
