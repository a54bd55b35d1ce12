"""ORPO. Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.objective.chosen_nll import chosen_nll
from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps, TokenLogps

if TYPE_CHECKING:
    from torch import Tensor

CERTAIN = -1e-6  # largest mean log-prob: odds of p = 1 are infinite


@dataclass(frozen=True)
class ORPO(Constant):
    """-log p(y_w) - weight log sigma(log odds(y_w) - log odds(y_l)): likelihood and odds ratio, no reference.

    p is the geometric mean of a response's token probabilities, and odds = p / (1 - p).
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 to 8e-6 for 7 B, since it learns the preferred response, too
    weight: float = 0.1  # of the odds ratio: lambda of the paper

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"objective.weight must be > 0, got {self.weight}. The paper uses 0.1 to 0.25.")

    @property
    def needs(self) -> Needs:
        return Needs()

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, the metrics of `pair_metrics`, of log-odds, and `nll`."""
        first, second = log_odds(pairs.current.first), log_odds(pairs.current.second)  # [P]
        nll = chosen_nll(pairs, "mean")
        values = nll + self.weight * soft(cross_entropy, first - second, pairs.preference)
        metrics = pair_metrics(first, second, pairs.preference, scale=self.weight)
        return Loss(values, {**metrics, "nll": nll.detach()})


def log_odds(side: TokenLogps) -> Tensor:
    """log p - log(1 - p) of the mean log-prob of a token, [P]."""
    mean = side.mean.clamp(max=CERTAIN)
    return mean - (-mean.expm1()).log()
