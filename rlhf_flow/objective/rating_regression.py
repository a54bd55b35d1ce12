"""Regression of a reward model on ratings. HelpSteer2, Wang et al. 2024, arXiv:2406.08673; here through differences."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.bradley_terry import check_center, rewards
from rlhf_flow.objective.log_ratios import Constant, pair_metrics
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class RatingRegression(Constant):
    """(r_1 - r_2 - log(p / (1 - p)))^2: the difference of the rewards is regressed on that of the ratings.

    A scorer with ratings labels a pair with p = sigma(scale * (rating_1 - rating_2)), whose log-odds are the scaled
    difference. The level of the rewards is free; `center` * (r_1 + r_2)^2 pulls it to 0.
    """

    center: float = 0.0  # weight of (r_1 + r_2)^2; 0: off

    def __post_init__(self) -> None:
        check_center(self.center)

    @property
    def needs(self) -> Needs:
        return Needs(readout="number")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and the metrics of `pair_metrics` and `target`.

        Raises ValueError unless the model has one output per response, and for a label of 0 or 1.
        """
        first, second = rewards(pairs)  # [P]
        target = pairs.preference.logit()  # [P]
        if not target.isfinite().all():
            raise ValueError(
                "the objective regresses on the difference of two ratings, and a preference of 0 or 1 has none. "
                "Fix: scorer.ratings, with a smaller scorer.scale if ratings are far apart."
            )
        values = (first - second - target) ** 2 + self.center * (first + second) ** 2
        metrics = pair_metrics(first, second, pairs.preference, scale=1.0)
        return Loss(values, {**metrics, "target": target.abs()})
