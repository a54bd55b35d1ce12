"""IPO. Azar et al. 2023, arXiv:2310.12036, eq. 17; online and soft: Calandriello et al. 2024, arXiv:2403.08635.

On a fixed data set the optimum depends on the distribution of the pairs. On pairs sampled from the current policy it is
the Nash equilibrium of the game regularised by tau * KL (Calandriello et al., Prop. 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, check_reduction, log_ratios, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps

# Below, rounds that are solved to the minimum swing: each is the best response to the answers of the one before, and on
# cyclic preferences the duality gap grows (`rlhf-flow verify --only V1e`).
SWINGS = 0.3


@dataclass(frozen=True)
class IPO(Constant):
    """(h - 1 / (2 tau))^2, where h is the difference of the log-ratios of winner and loser.

    A soft label p gives p (h - 1/(2 tau))^2 + (1 - p) (-h - 1/(2 tau))^2, whose gradient is that of one square with
    the target (2 p - 1) / (2 tau). This is the square of eq. 17. Calandriello et al. use -h + tau h^2 for the winner's
    order, with tau times the gradient: learning rates and clipping do not carry over.
    """

    tau: float = 1.0  # strength of the KL to the reference
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(
                f"objective.tau must be > 0, got {self.tau}. It is the strength of the KL to the reference: the papers "
                "use 1.0 on language models; smaller moves further from the reference (the target is 1 / (2 tau) nats)."
            )
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}), on_policy=True, swings=self.tau < SWINGS)

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and its metrics.

        The metrics of `pair_metrics` with scale tau; `h` = chosen - rejected; `target` = the value of h at the minimum.
        """
        target = 1 / (2 * self.tau)
        first, second = log_ratios(pairs, "reference", reduction=self.reduction)  # [P]
        values = soft(lambda h: (h - target) ** 2, first - second, pairs.preference)  # [P]
        metrics = pair_metrics(first, second, pairs.preference, scale=self.tau)
        metrics["h"] = metrics["chosen"] - metrics["rejected"]
        metrics["target"] = (2 * pairs.preference - 1).abs() * target
        return Loss(values, metrics)
