"""rDPO: DPO that is unbiased when a known share of the labels is flipped. Chowdhury et al. 2024, arXiv:2403.00409."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class RobustDPO:
    """[(1 - epsilon) l(margin) - epsilon l(-margin)] / (1 - 2 epsilon), where l is the loss of DPO.

    That is linear in the label, so it is DPO on the label as it was before the noise.
    """

    beta: float = 0.1  # strength of the KL to the reference
    epsilon: float = 0.1  # share of the labels that are flipped

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 0.5:
            raise ValueError(f"objective.epsilon must be in [0, 0.5), got {self.epsilon}. Try 0.1.")

    @property
    def needs(self) -> Needs:
        return DPO(self.beta).needs

    def at(self, round: int) -> RobustDPO:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], and DPO's metrics."""
        clean = (pairs.preference - self.epsilon) / (1 - 2 * self.epsilon)
        return DPO(self.beta).loss(replace(pairs, preference=clean))
