"""Regression of a reward model on ratings. HelpSteer2, Wang et al. 2024, arXiv:2406.08673; here through differences."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.bradley_terry import check_center, rewards
from rlhf_flow.objective.log_ratios import pair_metrics
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class RatingRegression:
    """(r_1 - r_2 - log(p / (1 - p)))^2: the difference of two rewards is drawn to that of the ratings.

    A scorer that knows ratings labels a pair with p = sigma(scale * (rating_1 - rating_2)), whose log-odds are the
    difference again. So the level of all rewards is not taught; `center` times (r_1 + r_2)^2 draws it to 0.
    """

    center: float = 0.0  # rating that is worth 0

    def __post_init__(self) -> None:
        check_center(self.center)

    @property
    def needs(self) -> Needs:
        return Needs(readout="number")

    def at(self, round: int) -> RatingRegression:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and its metrics: those of `pair_metrics`, and the `target`.

        Raises ValueError where the learner reads anything but one number of each response, or a label is 0 or 1.
        """
        first, second = rewards(pairs)  # [P]
        target = pairs.preference.logit()  # [P]
        if not target.isfinite().all():
            raise ValueError(
                "the objective regresses on the difference of two ratings, and a preference of 0 or 1 has none. "
                "Use scorer.ratings, with a smaller scorer.scale where ratings are far apart."
            )
        values = (first - second - target) ** 2 + self.center * (first + second) ** 2
        metrics = pair_metrics(first.detach(), second.detach(), pairs.preference, scale=1.0)
        return Loss(values, {**metrics, "target": target.abs()})
