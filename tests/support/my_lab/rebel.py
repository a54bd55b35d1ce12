"""REBEL: regression to relative rewards. Gao et al. 2024, arXiv:2404.16767."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class Rebel:
    """((a(y) - a(y')) / eta - (r(y) - r(y')))^2, a the log-ratio to the round's first policy and r the reward."""

    eta: float = 1.0  # step size, nats per unit of reward

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ValueError(f"objective.eta must be > 0, got {self.eta}. Try 1.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"previous"}), side_value="utility")

    def at(self, round: int) -> Rebel:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], and how far its log-ratios are apart."""
        before = pairs.anchors["previous"]
        first, second = pairs.current.first.sum - before.first.sum, pairs.current.second.sum - before.second.sum
        rewards = pairs.worth[:, 0] - pairs.worth[:, 1]
        return Loss(((first - second) / self.eta - rewards) ** 2, {"margin": (first - second).detach()})
