"""Online SLiC: a hinge on the log-ratios. Guo et al. 2024, arXiv:2402.04792, eq. 3.

Zhao et al. 2023, arXiv:2305.10425, use log-probs without a reference, and add a likelihood term.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, check_reduction, log_ratios, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class SLiC(Constant):
    """max(0, 1 - beta * delta), with delta the difference of the log-ratios of winner and loser.

    The gradient is 0 for delta > 1 / beta. A soft label gives the expectation over the label.
    """

    beta: float = 0.002  # 1 / margin in nats beyond which a pair has no gradient
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(
                f"objective.beta must be > 0, got {self.beta}. A pair has no gradient beyond a margin of 1 / beta "
                "nats: the paper uses 0.002; larger stays nearer to the reference."
            )
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], without unit, and the metrics of `pair_metrics` with scale beta."""
        from torch.nn.functional import relu

        first, second = log_ratios(pairs, "reference", reduction=self.reduction)  # [P]
        values = soft(lambda margin: relu(1 - margin), self.beta * (first - second), pairs.preference)  # [P]
        return Loss(values, pair_metrics(first, second, pairs.preference, scale=self.beta))
