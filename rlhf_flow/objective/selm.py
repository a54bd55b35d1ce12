"""SELM. Zhang et al. 2024, arXiv:2405.19332, eq. 4.2 and Algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import Constant, extra_log_ratio
from rlhf_flow.types import Loss, Needs, PairLogps

SOURCES = {"practical": "policy", "theoretical": "reference"}  # variant -> the source of the third response


@dataclass(frozen=True)
class SELM(Constant):
    """DPO, plus alpha * beta times the log-ratio of a response sampled from the reference, whether it won or lost.

    Descent makes that response less likely. alpha is multiplied by beta, as in eq. 4.2 and the released code;
    Algorithm 1 of the paper prints alpha for the product. In the practical variant the reference is renewed each round,
    so the policy samples that response; in the theoretical variant the reference is fixed.
    """

    beta: float = 0.01  # strength of the KL to the reference
    alpha: float = 0.001  # strength of the exploration, in units of beta
    variant: str = "practical"  # practical | theoretical: the extra is from the policy | the reference

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(
                f"objective.alpha must be >= 0, got {self.alpha}. It is the strength of the exploration: the paper "
                "uses 0.001 and 0.0001. Fix: objective.alpha=0 for none."
            )
        if self.variant not in SOURCES:
            raise ValueError(
                f"objective.variant must be practical or theoretical, got {self.variant}. It is the source of the "
                "third response. Fix: objective.variant=practical, with a reference that is renewed each round."
            )

    @property
    def needs(self) -> Needs:
        source = SOURCES[self.variant]
        return Needs(anchors=frozenset({"reference"}), sampled={source: "reference"}, extra=source)

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of DPO and `extra`, the third log-ratio."""
        exploitation = DPO(self.beta).loss(pairs)
        extra = extra_log_ratio(pairs, "reference")  # [P]
        exploration = self.alpha * self.beta * extra  # [P]
        return Loss(exploitation.values + exploration, {**exploitation.metrics, "extra": extra.detach()})
