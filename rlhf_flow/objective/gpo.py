"""GPO: the score of a general preference model as target. Zhang et al. 2024, arXiv:2410.02197, eq. 5.3."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, check_reduction, log_ratios, pair_metrics, side_values
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class GPO(Constant):
    """The mean over both sides of (a(y) - s(y) / beta)^2, with a = log pi - log pi_t.

    s(y) is the mean score of y against the responses to its prompt: the log-odds to win. Scores are not bounded as win
    rates are; `clip` bounds s / beta. The pair's label is not read.
    """

    beta: float = 0.001  # 1 / step size; the paper's, with scores of a preference model over its temperature
    clip: float | None = None  # bound of the target, nats; null: none
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"objective.beta must be > 0, got {self.beta}. Larger stays nearer to the last policy.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"objective.clip must be > 0, or null, got {self.clip}. It bounds the target, in nats.")
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"previous"}), side_value="log_odds", on_policy=True, returns="average")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, its metrics, and `target`, of chosen - rejected."""
        import torch

        first, second = log_ratios(pairs, "previous", reduction=self.reduction)  # [P]
        p, q = (score / self.beta for score in side_values(pairs))
        if self.clip is not None:
            p, q = p.clamp(-self.clip, self.clip), q.clamp(-self.clip, self.clip)
        values = ((first - p) ** 2 + (second - q) ** 2) / 2  # [P]
        metrics = pair_metrics(first, second, (1 + torch.sign(p - q)) / 2, scale=self.beta)
        return Loss(values, {**metrics, "target": (p - q).abs()})
