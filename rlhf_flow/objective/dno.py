"""DNO. Rosset et al. 2024, arXiv:2404.03715, Algorithm 1; with a regulariser: their appendix A.

The paper's practical algorithm (DNO-Prct) uses hard labels of a wide margin instead: the logistic loss with a reference
that is renewed each round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import Constant, win_rates
from rlhf_flow.objective.mixed_anchor import anchored, anchors, check_step, returned
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class DNO(Constant):
    """Cross-entropy of sigma(eta * delta) against sigma(r(first) - r(second)).

    r is the win rate of a response against the previous policy pi_t; delta is the difference of the log-ratios
    log pi(y|x) - log pi_t(y|x). The minimiser is pi_t exp(r / eta), normalised. With tau > 0 the log-ratios are to
    pi_t^(1 - tau/eta) pi_ref^(tau/eta). The pair's own preference is unused.
    """

    eta: float = 0.1  # 1 / step size from the previous policy
    tau: float = 0.0  # strength of the KL to the reference; 0: none

    def __post_init__(self) -> None:
        check_step(self.eta, self.tau)

    @property
    def needs(self) -> Needs:
        return Needs(anchors(self.tau), side_value="win_rate", on_policy=True, returns=returned(self.tau))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics` with scale eta.

        The preferred side is the one with the larger win rate.
        """
        import torch

        first, second = win_rates(pairs)  # [P]
        anchor = anchored(pairs, self.eta, self.tau)
        label = torch.sigmoid(first - second)  # [P]
        return DPO(self.eta).loss(replace(pairs, anchors={"reference": anchor}, preference=label))
