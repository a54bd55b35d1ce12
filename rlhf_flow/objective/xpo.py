"""XPO. Xie et al. 2024, arXiv:2405.21046, Algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import extra_log_ratio
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class XPO:
    """DPO, plus alpha times the log-ratio of the response that the reference drew, whether it won or lost.

    Optimism: of the policies that fit the data alike, the one that says least of what the reference says already. The
    sign is plus, so descent makes that response less likely. The term is a sum over tokens, clipped on its own: outside
    of +-clip it has no gradient. (Algorithm 1 has log pi in place of the log-ratio, with the same gradient.)
    """

    beta: float = 0.1  # strength of the KL to the reference
    alpha: list[float] = field(default_factory=lambda: [1e-5, 5e-6, 0.0])  # one a round; the last one stays
    clip: float = 500.0  # nats: bound of the log-ratio in the exploration term

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not self.alpha or not all(math.isfinite(alpha) and alpha >= 0 for alpha in self.alpha):
            raise ValueError(
                f"objective.alpha must be a list of numbers >= 0, one a round, got {self.alpha}. It is the strength of "
                "the exploration, and its sign is never changed. Try objective.alpha=[1e-5,5e-6,0], as in the paper."
            )
        if not self.clip > 0:
            raise ValueError(
                f"objective.clip must be > 0, got {self.clip}. It bounds the log-ratio in the exploration term: the "
                "paper uses 500 nats. Try objective.alpha=[0] to go without exploration."
            )

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}), draws=frozenset({"reference"}), extra="reference")

    def at(self, round: int) -> XPO:
        """With the alpha of this round alone; rounds count from 1."""
        return replace(self, alpha=[self.alpha[min(round, len(self.alpha)) - 1]])

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and its metrics: those of DPO, and `extra`, the third log-ratio.

        Before `at` has named a round, alpha is that of the first.
        """
        exploitation = DPO(self.beta).loss(pairs)
        extra = extra_log_ratio(pairs, "reference")  # [P]
        exploration = self.alpha[0] * extra.clamp(-self.clip, self.clip)  # [P]
        return Loss(exploitation.values + exploration, {**exploitation.metrics, "extra": extra.detach()})
