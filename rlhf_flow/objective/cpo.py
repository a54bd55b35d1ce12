"""CPO. Xu et al. 2024, arXiv:2401.08417, eq. 3 and 5."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.chosen_nll import chosen_nll
from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class CPO(Constant):
    """DPO with a uniform reference, plus `nll` times the mean negative log-likelihood of a preferred token."""

    beta: float = 0.1  # per nat
    nll: float = 1.0  # weight of the likelihood, which takes the place of the reference

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"objective.beta must be > 0, got {self.beta}. The paper uses 0.1.")
        if not self.nll >= 0:
            raise ValueError(f"objective.nll must be >= 0, got {self.nll}. 0 leaves nothing that holds the policy.")

    @property
    def needs(self) -> Needs:
        return Needs()

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, the metrics of `pair_metrics`, of log-probs, and `nll`."""
        first, second = pairs.current.first.sum, pairs.current.second.sum  # [P]
        nll = chosen_nll(pairs, "mean")
        values = soft(cross_entropy, self.beta * (first - second), pairs.preference) + self.nll * nll
        metrics = pair_metrics(first, second, pairs.preference, scale=self.beta)
        return Loss(values, {**metrics, "nll": nll.detach()})
