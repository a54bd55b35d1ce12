"""Preferences and ratings of the same responses in one loss. HelpSteer2-Preference, Wang et al. 2024, arXiv:2410.01257.

The paper first fits ratings, then preferences; this loss adds both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.objective.bradley_terry import BradleyTerry, rewards
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class RatedPreference(Constant):
    """The loss of `BradleyTerry`, plus `weight` times ((r_1 - u_1)^2 + (r_2 - u_2)^2) / 2, with u the ratings.

    By default the first is the paper's scaled Bradley-Terry loss, -m log sigma(r_w - r_l) for a preference of strength
    m. The ratings fix the level and the unit of the rewards, which differences do not.
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 for 7 B

    strength: str = "scale"  # label | margin | scale, as in objective=bt
    weight: float = 1.0  # of the regression; 0: preferences only

    def __post_init__(self) -> None:
        BradleyTerry(strength=self.strength)
        if not self.weight >= 0:
            raise ValueError(f"objective.weight must be >= 0, got {self.weight}. 0 leaves the ratings out.")

    @property
    def needs(self) -> Needs:
        return Needs(side_value="utility", readout="number")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], and the metrics of `pair_metrics`, of rewards.

        `rating_error` = the mean of (r - u)^2 over both sides. Raises ValueError like `BradleyTerry`, and for pairs
        without ratings.
        """
        if pairs.worth is None:
            raise ValueError(
                "the objective reads the ratings of both sides of a pair, but these pairs have none. "
                "Fix: selector.worth=utility, and scorer.ratings."
            )
        preferred = BradleyTerry(strength=self.strength).loss(pairs)
        first, second = rewards(pairs)  # [P]
        error = ((first - pairs.worth[:, 0]) ** 2 + (second - pairs.worth[:, 1]) ** 2) / 2  # [P]
        metrics = {**preferred.metrics, "rating_error": error.detach()}
        return Loss(preferred.values + self.weight * error, metrics)
