"""XPO. Xie et al. 2024, arXiv:2405.21046, Algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import extra_log_ratio
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class XPO:
    """DPO, plus alpha times the log-ratio of the response sampled from the reference, whether it won or lost.

    Optimism: among policies that fit the data equally well, it prefers the one that gives the reference's responses the
    least probability. The log-ratio, a sum over tokens, is clipped: outside of +-clip it has no gradient. (Algorithm 1
    has log pi in place of the log-ratio, with the same gradient.)
    """

    beta: float = 0.1  # strength of the KL to the reference
    alpha: list[float] = field(default_factory=lambda: [1e-5, 5e-6, 0.0])  # one per round; the last one is repeated
    clip: float = 500.0  # bound of the log-ratio in the exploration term, in nats

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not self.alpha or not all(math.isfinite(alpha) and alpha >= 0 for alpha in self.alpha):
            raise ValueError(
                f"objective.alpha must be a list of numbers >= 0, one per round, got {self.alpha}. It is the strength "
                "of the exploration. Fix: objective.alpha=[1e-5,5e-6,0], as in the paper."
            )
        if not self.clip > 0:
            raise ValueError(
                f"objective.clip must be > 0, got {self.clip}. It bounds the log-ratio in the exploration term: the "
                "paper uses 500 nats. Fix: objective.alpha=[0] for no exploration."
            )

    @property
    def needs(self) -> Needs:
        return Needs(
            anchors=frozenset({"reference"}),
            sampled={"reference": "reference"},
            extra="reference",
            returns="best",
        )

    def at(self, round: int) -> XPO:
        """With the alpha of this round; rounds count from 1."""
        return replace(self, alpha=[self.alpha[min(round, len(self.alpha)) - 1]])

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of DPO and `extra`, the third log-ratio.

        Without `at`, alpha is that of round 1.
        """
        exploitation = DPO(self.beta).loss(pairs)
        extra = extra_log_ratio(pairs, "reference")  # [P]
        exploration = self.alpha[0] * extra.clamp(-self.clip, self.clip)  # [P]
        return Loss(exploitation.values + exploration, {**exploitation.metrics, "extra": extra.detach()})
