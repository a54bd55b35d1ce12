"""SLiC as it is used online: a hinge on the log-ratios. Guo et al. 2024, arXiv:2402.04792, eq. 3.

Zhao et al. 2023, arXiv:2305.10425, write the hinge on log-probs without a reference, and add a likelihood term.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import check_reduction, log_ratios, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class SLiC:
    """max(0, 1 - beta * delta), with delta the difference of the log-ratios of winner and loser.

    The gradient is gone where delta is beyond 1 / beta. A soft label gives the expectation over the label.
    """

    beta: float = 0.002  # one over the margin, in nats, at which a pair is left alone
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(
                f"objective.beta must be > 0, got {self.beta}. A pair is left alone beyond a margin of 1 / beta nats: "
                "the paper uses 0.002; larger stays nearer to the reference, and the sign is never changed."
            )
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def at(self, round: int) -> SLiC:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], without unit, and its metrics: those of `pair_metrics`, with beta as the scale."""
        from torch.nn.functional import relu

        first, second = log_ratios(pairs, "reference", reduction=self.reduction)  # [P]
        values = soft(lambda margin: relu(1 - margin), self.beta * (first - second), pairs.preference)  # [P]
        return Loss(values, pair_metrics(first, second, pairs.preference, scale=self.beta))
