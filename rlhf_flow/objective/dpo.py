"""DPO. Rafailov et al. 2023, arXiv:2305.18290, eq. 7."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, cross_entropy, log_ratios, pair_metrics, ranking_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class DPO(Constant):
    """Binary cross-entropy of sigma(beta * delta) against P(first beats second).

    delta is the difference of the two log-ratios log pi(y|x) - log pi_ref(y|x), each a sum over tokens. A hard label
    (0 or 1) gives eq. 7, a soft label its expectation.
    """

    beta: float = 0.1  # strength of the KL to the reference

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(
                f"objective.beta must be > 0, got {self.beta}. It is the strength of the KL to the reference: "
                "0.1 is common; smaller moves further from the reference."
            )

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats; metrics of `pair_metrics`, with scale beta, and `ranking_metrics`."""
        first, second = log_ratios(pairs, "reference")  # [P]
        values = soft(cross_entropy, self.beta * (first - second), pairs.preference)  # [P]
        metrics = pair_metrics(first, second, pairs.preference, scale=self.beta)
        return Loss(values, metrics | ranking_metrics(pairs, "reference", beta=self.beta))
