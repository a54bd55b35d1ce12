"""One step of mirror descent in a regularised preference game, as a regression on pairs.

The loss of Zhang et al. 2024, arXiv:2407.00617, eq. 8. If a policy S samples both sides independently, the minimiser is
pi_previous^(1 - tau/eta) pi_reference^(tau/eta) exp(P(. beats S) / eta), normalised. The schedule and the sampler turn
it into online mirror descent, Nash mirror descent (S: a mixture), extragradient descent (S: half a step ahead) or
magnetic mirror descent (a reference that is renewed every k rounds).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_flow.objective.ipo import IPO
from rlhf_flow.objective.log_ratios import Constant, check_reduction
from rlhf_flow.objective.mixed_anchor import anchored, anchors, check_step, returned
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class SquaredAnchor(Constant):
    """p (h - 1/(2 eta))^2 + (1 - p) (h + 1/(2 eta))^2, with p = P(first beats second).

    h is the difference of the log-ratios log pi(y|x) - (1 - tau/eta) log pi_previous(y|x) - (tau/eta) log pi_ref(y|x).
    """

    eta: float = 0.005  # 1 / step size from the previous policy
    tau: float = 0.0  # strength of the KL to the reference; 0: none
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        check_step(self.eta, self.tau)
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=anchors(self.tau), on_policy=True, returns=returned(self.tau))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and the metrics of `IPO.loss` with scale eta."""
        anchor = anchored(pairs, self.eta, self.tau)
        return IPO(self.eta, self.reduction).loss(replace(pairs, anchors={"reference": anchor}))
