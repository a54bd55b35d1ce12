"""Shared by the objectives: log-ratios, soft labels, and metrics with the same meaning in all of them.

A log-ratio is log pi(y|x) - log pi_anchor(y|x), in nats: summed over the tokens of a response (`sum`), or averaged
(`mean`). Public code disagrees on which one a method uses. Constants do not carry over: they differ by about the length
of a response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rlhf_flow.types import PairLogps, TokenLogps

if TYPE_CHECKING:
    from torch import Tensor


class Constant:
    """An objective with the same constants in every round."""

    def at(self, round: int) -> Self:
        return self


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless it is sum or mean."""
    if reduction not in ("sum", "mean"):
        raise ValueError(
            f"objective.reduction must be sum or mean, got {reduction}. It reduces the log-ratios of the tokens of a "
            "response: sum is what the papers use; mean needs constants smaller by about the length."
        )


def log_ratios(pairs: PairLogps, anchor: str, *, reduction: str = "sum") -> tuple[Tensor, Tensor]:
    """The log-ratios of first and second [P], in nats."""
    sides = pairs.anchors[anchor]
    return (
        _log_ratio(pairs.current.first, sides.first, reduction),
        _log_ratio(pairs.current.second, sides.second, reduction),
    )


def extra_log_ratio(pairs: PairLogps, anchor: str) -> Tensor:
    """The log-ratio of the third response [P], in nats: a sum over its tokens."""
    current, sides = pairs.current.extra, pairs.anchors[anchor].extra
    if current is None or sides is None:
        raise ValueError(
            "the objective reads the log-probs of a third response of each pair, but these pairs have none. "
            "Fix: a selector that names one (its `extra`)."
        )
    return _log_ratio(current, sides, "sum")


def win_rates(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """The win rates of first and second [P], in [0, 1]."""
    if pairs.worth is None:
        raise ValueError(
            "the objective reads the win rates of both sides of a pair, but these pairs have none. "
            "Fix: a selector that records them (`worth`)."
        )
    return pairs.worth[:, 0], pairs.worth[:, 1]


def side_values(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """What the scorer's numbers say of first and second [P]: rewards, or scores."""
    if pairs.worth is None:
        raise ValueError(
            "the objective reads a number of each side of a pair, but these pairs have none. Fix: selector.worth."
        )
    return pairs.worth[:, 0], pairs.worth[:, 1]


def soft(loss: Callable[[Tensor], Tensor], gap: Tensor, preference: Tensor) -> Tensor:
    """p loss(gap) + (1 - p) loss(-gap) [P]: the expected loss if the label is 1 with probability p."""
    return preference * loss(gap) + (1 - preference) * loss(-gap)


def cross_entropy(logit: Tensor) -> Tensor:
    """-log sigma, in nats."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(logit)


def pair_metrics(first: Tensor, second: Tensor, preference: Tensor, *, scale: float) -> dict[str, Tensor]:
    """Metrics of every pairwise loss [P], from the log-ratios of both sides and the label [P].

    `chosen` and `rejected` = the log-ratios of the preferred and the other side; `margin` = scale * (chosen -
    rejected), the gap of the implicit rewards; `accuracy` = 1 if chosen > rejected, 1/2 if equal. With preference 1/2,
    chosen = rejected = the mean of both.
    """
    import torch

    with torch.no_grad():
        sign = torch.sign(preference - 0.5)  # [P]: 1 first is preferred, -1 second, 0 neither
        chosen = ((1 + sign) * first + (1 - sign) * second) / 2
        rejected = ((1 - sign) * first + (1 + sign) * second) / 2
        return {
            "margin": scale * (chosen - rejected),
            "accuracy": (1 + torch.sign(chosen - rejected)) / 2,
            "chosen": chosen,
            "rejected": rejected,
        }


def ranking_metrics(pairs: PairLogps, anchor: str, *, beta: float) -> dict[str, Tensor]:
    """Whether the policy finds the preferred response likelier [P]. Chen et al. 2024, arXiv:2405.19534.

    `ranking` = 1 if log pi(y_w) > log pi(y_l), 1/2 if equal; `ranking_ideal` = the same of the loss's optimum
    pi_ref (P / (1 - P))^(1 / beta), which a label of 0 or 1 always ranks right. A tie of the label counts 1/2.
    """
    import torch

    with torch.no_grad():
        sign = torch.sign(pairs.preference - 0.5)
        known = pairs.anchors[anchor]
        gap = pairs.current.first.sum - pairs.current.second.sum
        ideal = known.first.sum - known.second.sum + pairs.preference.logit() / beta
        return {
            "ranking": (1 + sign * torch.sign(gap)) / 2,
            "ranking_ideal": (1 + sign * torch.sign(ideal)) / 2,
        }


def _log_ratio(current: TokenLogps, anchor: TokenLogps, reduction: str) -> Tensor:
    return current.mean - anchor.mean if reduction == "mean" else current.sum - anchor.sum
