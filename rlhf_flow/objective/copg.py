"""Contrastive policy gradient. Flet-Berliac et al. 2024, arXiv:2406.19185, eq. 6."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, check_reduction, log_ratios, pair_metrics, side_values
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class CoPG(Constant):
    """beta/2 (h - (r(y) - r(y')) / beta)^2, with h the difference of the log-ratios to the reference.

    Its gradient is that of -(R(y) - R(y')) (log pi(y) - log pi(y')) for R = r - beta (log pi - log pi_ref): each
    response is the baseline of the other. The answers may come from any policy; the minimiser is pi_ref exp(r / beta).
    """

    beta: float = 0.1  # strength of the KL to the reference, units of reward per nat
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"objective.beta must be > 0, got {self.beta}. It is the strength of the KL.")
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}), side_value="utility")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in units of reward, its metrics and `target`, of h at the minimum."""
        import torch

        first, second = log_ratios(pairs, "reference", reduction=self.reduction)  # [P]
        better, worse = side_values(pairs)
        gap = better - worse
        values = self.beta / 2 * (first - second - gap / self.beta) ** 2  # [P]
        metrics = pair_metrics(first, second, (1 + torch.sign(gap)) / 2, scale=self.beta)
        return Loss(values, {**metrics, "target": (gap / self.beta).abs()})
