"""MNPO: a game against several past policies. Wu et al. 2025, arXiv:2509.23102, eq. 14."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.objective.log_ratios import Constant, log_ratios, pair_metrics, soft
from rlhf_flow.objective.mixed_anchor import returned
from rlhf_flow.types import Loss, Needs, PairLogps

PAST = ("previous", "previous_2", "previous_3", "previous_4")


@dataclass(frozen=True)
class MNPO(Constant):
    """p (h - 1/(2 eta))^2 + (1 - p) (h + 1/(2 eta))^2, as INPO, with a mixture of past policies in the anchor.

    h is the difference of log pi - (tau/eta) log pi_ref - (1 - tau/eta) sum_j w_j log pi_(t-j). With one weight it is
    INPO; more of them damp the cycles of self-play.
    """

    eta: float = 0.005  # 1 / step size
    tau: float = 0.0017  # strength of the KL to the reference, below eta
    weights: list[float] = field(default_factory=lambda: [0.6, 0.3, 0.1])  # of the newest policies, newest first

    def __post_init__(self) -> None:
        if not 0 <= self.tau < self.eta:
            raise ValueError(f"objective.tau must be >= 0 and < objective.eta={self.eta}, got {self.tau}")
        given = len(self.weights), all(weight > 0 for weight in self.weights), abs(sum(self.weights) - 1) < 1e-6
        if not (1 <= given[0] <= len(PAST) and given[1] and given[2]):
            raise ValueError(
                f"objective.weights must be 1 to {len(PAST)} numbers > 0 of sum 1, got {self.weights}. "
                "Fix: objective.weights=[1.0], which is INPO."
            )

    @property
    def anchors(self) -> dict[str, float]:
        """The policies in the anchor, with their exponents."""
        share = self.tau / self.eta
        past = {name: (1 - share) * weight for name, weight in zip(PAST, self.weights, strict=False)}
        return past if share == 0 else past | {"reference": share}

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset(self.anchors), on_policy=True, returns=returned(self.tau))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and the metrics of `IPO.loss` with scale eta."""
        first = second = pairs.preference.new_zeros(())
        for name, exponent in self.anchors.items():  # the exponents add up to 1
            one, other = log_ratios(pairs, name)
            first, second = first + exponent * one, second + exponent * other
        target = 1 / (2 * self.eta)
        values = soft(lambda h: (h - target) ** 2, first - second, pairs.preference)  # [P]
        metrics = pair_metrics(first, second, pairs.preference, scale=self.eta)
        metrics["h"] = metrics["chosen"] - metrics["rejected"]
        metrics["target"] = (2 * pairs.preference - 1).abs() * target
        return Loss(values, metrics)
