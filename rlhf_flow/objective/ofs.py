"""OFS-DPO: a fast and a slow policy that drive each other. Qi et al. 2024, arXiv:2406.05534, eq. 3 to 6."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import cross_entropy, log_ratios, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class OFS:
    """DPO, plus alpha times the same loss against the other policy (fast), or minus alpha times that of the other one.

    With m the margin of the trained policy over the other, beta times: the fast one adds alpha (-log sigma(m)), the
    slow one -alpha (-log sigma(-m)). Both raise their own m, so neither stops once DPO's loss is small. The slow one's
    term has no lower bound: it is held from m = `most` on. It trains in odd rounds, the fast one in even rounds.
    """

    beta: float = 0.1  # strength of the KL to the reference
    alpha: float = 0.1  # strength of the competition; 0 is DPO
    most: float = 5.0  # of the margin over the other policy, in units of 1 / beta nats
    slow: bool = False  # whether the slow policy is trained; `at` sets it

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not (self.alpha >= 0 and self.most > 0):
            raise ValueError(f"objective.alpha must be >= 0 and objective.most > 0, got {self.alpha} and {self.most}")

    def at(self, round: int) -> OFS:
        """The slow policy's in odd rounds."""
        return replace(self, slow=round % 2 == 1)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference", "sibling"}))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of DPO and `lead`, the margin over the other policy."""
        labelled = DPO(self.beta).loss(pairs)
        first, second = log_ratios(pairs, "sibling")  # [P]
        lead = self.beta * (first - second)
        if self.slow:
            competition = -soft(lambda m: cross_entropy(-m.clamp(max=self.most)), lead, pairs.preference)
        else:
            competition = soft(cross_entropy, lead, pairs.preference)
        metrics = {**labelled.metrics, "lead": (2 * pairs.preference - 1) * lead.detach()}
        return Loss(labelled.values + self.alpha * competition, metrics)
