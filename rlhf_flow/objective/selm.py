"""SELM. Zhang et al. 2024, arXiv:2405.19332, eq. 4.2 and Algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import extra_log_ratio
from rlhf_flow.types import Loss, Needs, PairLogps

SOURCES = {"practical": "policy", "theoretical": "reference"}  # variant -> who drew the third response


@dataclass(frozen=True)
class SELM:
    """DPO, plus alpha * beta times the log-ratio of a response that the reference drew, whether it won or lost.

    Descent makes that response less likely, which leaves room for others. alpha is multiplied by beta, as in eq. 4.2
    and the released code; Algorithm 1 of the paper prints alpha for the product. In the practical variant the reference
    is renewed each round, so that it is the policy that answers; in the theoretical one it stays what it was.
    """

    beta: float = 0.01  # strength of the KL to the reference
    alpha: float = 0.001  # strength of the exploration, in units of beta
    variant: str = "practical"  # practical | theoretical: the policy or the reference drew the extra

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(
                f"objective.alpha must be >= 0, got {self.alpha}. It is the strength of the exploration, and its sign "
                "is never changed: the paper uses 0.001 and 0.0001. Try objective.alpha=0 to go without."
            )
        if self.variant not in SOURCES:
            raise ValueError(
                f"objective.variant must be practical or theoretical, got {self.variant}. It says who drew the third "
                "response. Try objective.variant=practical, with a reference that is renewed each round."
            )

    @property
    def needs(self) -> Needs:
        source = SOURCES[self.variant]
        return Needs(anchors=frozenset({"reference"}), draws=frozenset({source}) - {"policy"}, extra=source)

    def at(self, round: int) -> SELM:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and its metrics: those of DPO, and `extra`, the third log-ratio."""
        exploitation = DPO(self.beta).loss(pairs)
        extra = extra_log_ratio(pairs, "reference")  # [P]
        exploration = self.alpha * self.beta * extra  # [P]
        return Loss(exploitation.values + exploration, {**exploitation.metrics, "extra": extra.detach()})
