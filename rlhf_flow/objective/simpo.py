"""SimPO. Meng et al. 2024, arXiv:2405.14734, eq. 6."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class SimPO(Constant):
    """-log sigma(beta (d - margin)), with d the difference of the mean log-probs of a token: no reference."""

    beta: float = 2.0  # per nat a token
    margin: float = 0.5  # target of d, nats a token: gamma / beta of the paper

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"objective.beta must be > 0, got {self.beta}. The paper uses 2 to 10.")
        if not self.margin >= 0:
            raise ValueError(f"objective.margin must be >= 0, got {self.margin}. It is gamma / beta: 0.1 to 0.8.")

    @property
    def needs(self) -> Needs:
        return Needs()

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics`, of mean log-probs."""
        first, second = pairs.current.first.mean, pairs.current.second.mean  # [P]
        values = soft(lambda d: cross_entropy(self.beta * (d - self.margin)), first - second, pairs.preference)
        return Loss(values, pair_metrics(first, second, pairs.preference, scale=self.beta))
