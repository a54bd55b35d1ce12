"""INPO. Zhang et al. 2024, arXiv:2407.00617, eq. 8."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_flow.objective.log_ratios import check_reduction
from rlhf_flow.objective.squared_anchor import SquaredAnchor
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class INPO:
    """(h_t - 1 / (2 eta))^2, where h_t is the winner's log-ratio to the anchor minus the loser's.

    The anchor is pi_t^(1 - tau/eta) pi_ref^(tau/eta), with pi_t the policy that sampled the pair. The target
    1 / (2 eta) is that of a hard label; win rates are not estimated.
    """

    eta: float = 0.005  # 1 / step size
    tau: float | None = None  # strength of the KL to the reference, below eta; null: eta / 3, as in the paper
    decaying: bool = False  # eta_t = tau (t + 2) / 2 in round t, the schedule of Theorem 4; eta is unused
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        check_reduction(self.reduction)
        if self.decaying:
            if self.tau is None or not self.tau > 0:
                raise ValueError(
                    "objective.tau must be > 0 with objective.decaying=true, which sets eta_t = tau (t + 2) / 2, got "
                    f"{self.tau}. Fix: objective.tau=0.002, or objective.decaying=false."
                )
            return
        if not self.eta > 0:
            raise ValueError(
                f"objective.eta must be > 0, got {self.eta}. It is 1 / step size: the paper uses 0.005; larger stays "
                "nearer to the previous policy."
            )
        if self.tau is not None and not 0 < self.tau < self.eta:
            raise ValueError(
                f"objective.tau must be > 0 and < objective.eta={self.eta}, got {self.tau}: tau / eta is the "
                "reference's share of the anchor. Fix: leave it out for eta / 3; or objective.decaying=true, for "
                "eta_t = tau (t + 2) / 2, which is always above tau; or objective=squared_anchor, which takes tau=0."
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
        """The loss of each pair [P], in nats squared, and the metrics of `IPO.loss` with scale eta.

        Without `at`, a decaying eta is that of round 1.
        """
        return self._square().loss(pairs)

    def _square(self) -> SquaredAnchor:
        now = self.at(1) if self.decaying else self
        return SquaredAnchor(now.eta, now.eta / 3 if now.tau is None else now.tau, self.reduction)
