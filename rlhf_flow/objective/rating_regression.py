"""Regression of a reward model on ratings. HelpSteer2, Wang et al. 2024, arXiv:2406.08673; here through differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.objective.bradley_terry import check_center, rewards
from rlhf_flow.objective.log_ratios import Constant, pair_metrics
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class RatingRegression(Constant):
    """(r_1 - r_2 - scale (u_1 - u_2))^2: the difference of the rewards is regressed on that of the ratings u.

    The level of the rewards is free; `center` * (r_1 + r_2)^2 pulls it to 0.
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 for 7 B

    scale: float = 1.0  # reward per point of rating
    center: float = 0.0  # weight of (r_1 + r_2)^2; 0: off

    def __post_init__(self) -> None:
        check_center(self.center)
        if not self.scale > 0:
            raise ValueError(f"objective.scale must be > 0, got {self.scale}. It is the reward per point of rating.")

    @property
    def needs(self) -> Needs:
        return Needs(side_value="utility", readout="number")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and the metrics of `pair_metrics` and `target`.

        Raises ValueError unless the model has one output per response, and for pairs without ratings.
        """
        first, second = rewards(pairs)  # [P]
        if pairs.worth is None:
            raise ValueError(
                "the objective reads the ratings of both sides of a pair, but these pairs have none. "
                "Fix: selector.worth=utility, and scorer.ratings."
            )
        target = self.scale * (pairs.worth[:, 0] - pairs.worth[:, 1])  # [P]
        values = (first - second - target) ** 2 + self.center * (first + second) ** 2
        metrics = pair_metrics(first, second, pairs.preference, scale=1.0)
        return Loss(values, {**metrics, "target": target.abs()})
