"""INPO. Zhang et al. 2024, arXiv:2407.00617, eq. 8."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_flow.objective.log_ratios import check_reduction
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class INPO:
    """The square of h_t - 1 / (2 eta), where h_t is the winner's log-ratio to the anchor less the loser's.

    The anchor is pi_t^(1 - tau/eta) pi_ref^(tau/eta), with pi_t the policy that drew the pair. The target 1 / (2 eta)
    is that of a hard label: the win rates themselves are never estimated.
    """

    eta: float = 0.005  # one over the size of a step
    tau: float | None = None  # strength of the KL to the reference, below eta; null: eta / 3, as in the paper
    decaying: bool = False  # eta_t = tau (t + 2) / 2 in round t, the schedule of Theorem 4; eta is not read
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        check_reduction(self.reduction)
        if self.decaying:
            if self.tau is None or not self.tau > 0:
                raise ValueError(
                    "objective.tau must be > 0 where objective.decaying=true makes eta_t = tau (t + 2) / 2 of it, got "
                    f"{self.tau}. Try objective.tau=0.002, or objective.decaying=false."
                )
            return
        if not self.eta > 0:
            raise ValueError(
                f"objective.eta must be > 0, got {self.eta}. It is one over the size of a step: the paper uses 0.005; "
                "larger stays nearer to the previous policy, and the sign is never changed."
            )
        if self.tau is not None and not 0 < self.tau < self.eta:
            raise ValueError(
                f"objective.tau must be > 0 and < objective.eta={self.eta}, got {self.tau}: tau / eta is the "
                "reference's share of the anchor. Leave it out for eta / 3, or set objective.decaying=true for "
                "eta_t = tau (t + 2) / 2, which is above tau in every round. (objective=squared_anchor takes tau=0.)"
            )

    @property
    def needs(self) -> Needs:
        return self._square().needs

    def at(self, round: int) -> INPO:
        """With the eta of this round; rounds count from 1."""
        if not self.decaying or self.tau is None:
            return self
        return replace(self, eta=self.tau * (round + 2) / 2, decaying=False)

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and its metrics.

        Those of `pair_metrics`, with eta as the scale; `h` = chosen - rejected; `target` = where h is drawn to. Before
        `at` has named a round, a decaying eta is that of the first.
        """
        return self._square().loss(pairs)

    def _square(self) -> SquaredAnchor:
        now = self.at(1) if self.decaying else self
        return SquaredAnchor(now.eta, now.eta / 3 if now.tau is None else now.tau, self.reduction)
