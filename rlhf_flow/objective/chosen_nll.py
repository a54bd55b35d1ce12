"""The negative log-likelihood of the preferred response, or of a third one, in addition to any pairwise loss.

RPO, Liu et al. 2024, arXiv:2405.16436 (a sum over tokens); Iterative RPO, Pang et al. 2024, arXiv:2404.19733 (a mean);
public trainers average over all tokens of a batch. Of a third response: Triple PO, Saeidi et al. 2024,
arXiv:2405.16681.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlhf_flow.types import Loss, Needs, PairLogps

if TYPE_CHECKING:
    from torch import Tensor

REDUCTIONS = ("sum", "mean", "batch")


def chosen_nll(pairs: PairLogps, reduction: str) -> Tensor:
    """-log pi(y_w|x) [P], in nats; of a tie the mean of both sides.

    sum: over the tokens; mean: of a token of the response; batch: the sum over the mean length of the preferred
    responses of the batch, whose mean over the batch is that over all their tokens.
    """
    import torch

    sides = pairs.current.first, pairs.current.second
    first, second = (side.mean if reduction == "mean" else side.sum for side in sides)  # [P]
    won = (1 + torch.sign(pairs.preference - 0.5)) / 2
    nll = -(won * first + (1 - won) * second)
    return nll / pairs.chosen_tokens if reduction == "batch" else nll


@dataclass(frozen=True)
class ChosenNLL:
    """The loss of `base`, plus `weight` times the negative log-likelihood of the preferred response."""

    base: Any = None  # any objective of pairs: objective@objective.base=dpo
    weight: float = 1.0  # of the likelihood
    reduction: str = "mean"  # sum | mean | batch: over tokens
    of: str = "chosen"  # chosen | extra: the preferred response, or a third one of the data set

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"objective.weight must be >= 0, got {self.weight}. 0 leaves the likelihood out.")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"objective.reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")
        if self.of not in ("chosen", "extra"):
            raise ValueError(f"objective.of must be chosen or extra, got {self.of!r}")
        if self.of == "extra" and self.reduction == "batch":
            raise ValueError("objective.reduction=batch is of preferred responses. Fix: objective.reduction=mean.")

    @property
    def needs(self) -> Needs:
        needs: Needs = self.base.needs
        return replace(needs, extra="dataset") if self.of == "extra" else needs

    def at(self, round: int) -> ChosenNLL:
        """With the base of this round."""
        return replace(self, base=self.base.at(round))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], and the metrics of the base and `nll`."""
        base = self.base.loss(pairs)
        nll = chosen_nll(pairs, self.reduction) if self.of == "chosen" else _third_nll(pairs, self.reduction)
        return Loss(base.values + self.weight * nll, {**base.metrics, "nll": nll.detach()})


def _third_nll(pairs: PairLogps, reduction: str) -> Tensor:
    """-log pi(y|x) of the third response [P]: over its tokens a sum or a mean."""
    extra = pairs.current.extra
    if extra is None:
        raise ValueError("objective.of=extra reads a third response of each pair. Fix: selector.extra.")
    return -(extra.mean if reduction == "mean" else extra.sum)
