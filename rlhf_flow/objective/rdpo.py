"""Robust DPO. Chowdhury et al. 2024, arXiv:2403.00409, eq. 12."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import Constant, cross_entropy, log_ratios, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class RobustDPO(Constant):
    """DPO without the bias of labels that are wrong with probability `noise`.

    [(1 - noise) l(z) - noise l(-z)] / (1 - 2 noise), with l = -log sigma and z = beta delta: its mean over wrong and
    right labels is the loss of the right ones. It has no lower bound; delta is clipped at +-`clip`.
    """

    beta: float = 0.1  # strength of the KL to the reference
    noise: float = 0.1  # probability that a label is wrong, below 1/2
    clip: float = 100.0  # bound of beta * delta, nats

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not 0 <= self.noise < 0.5:
            raise ValueError(
                f"objective.noise must be in [0, 1/2), got {self.noise}. It is how often labels are wrong."
            )
        if not self.clip > 0:
            raise ValueError(f"objective.clip must be > 0, got {self.clip}. It bounds beta * delta: 100 hardly does.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics` with scale beta."""
        first, second = log_ratios(pairs, "reference")  # [P]
        z = (self.beta * (first - second)).clamp(-self.clip, self.clip)
        right, wrong = soft(cross_entropy, z, pairs.preference), soft(cross_entropy, -z, pairs.preference)
        values = ((1 - self.noise) * right - self.noise * wrong) / (1 - 2 * self.noise)
        return Loss(values, pair_metrics(first, second, pairs.preference, scale=self.beta))
