"""What the objectives read: log-ratios of the responses, the rule for soft labels, metrics that mean the same in all.

A log-ratio is log pi(y|x) - log pi_anchor(y|x), in nats: of the whole response (`sum`), or a token of it on average
(`mean`). Public code disagrees on which of the two a method takes, and constants do not carry over from one to the
other: they differ by about the length of a response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_flow.types import PairLogps, TokenLogps

if TYPE_CHECKING:
    from torch import Tensor


def check_reduction(reduction: str) -> None:
    """Raise ValueError for a reduction that there is not."""
    if reduction not in ("sum", "mean"):
        raise ValueError(
            f"objective.reduction must be sum or mean, got {reduction}. It is how the log-ratio of a response is made "
            "from those of its tokens: sum is what the papers write; mean needs constants smaller by about the length."
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
            "the objective reads the log-probs of a third response of each pair, and these pairs have none. "
            "Try a selector that names one (its `extra`)."
        )
    return _log_ratio(current, sides, "sum")


def win_rates(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """The win rates of first and second [P], in [0, 1]."""
    if pairs.worth is None:
        raise ValueError(
            "the objective reads the win rates of both sides of a pair, and these pairs have none. "
            "Try a selector that records them (`worth`)."
        )
    return pairs.worth[:, 0], pairs.worth[:, 1]


def soft(loss: Callable[[Tensor], Tensor], gap: Tensor, preference: Tensor) -> Tensor:
    """p loss(gap) + (1 - p) loss(-gap) [P]: the expectation of a hard-labelled loss over a label of probability p."""
    return preference * loss(gap) + (1 - preference) * loss(-gap)


def pair_metrics(first: Tensor, second: Tensor, preference: Tensor, *, scale: float) -> dict[str, Tensor]:
    """What is told of every pairwise loss, given the log-ratios of both sides and the label [P].

    `chosen` and `rejected` = the log-ratios of the preferred and of the other side, `margin` = scale * (chosen -
    rejected), the gap of the implicit rewards, `accuracy` = 1 where the preferred side has the larger one. A pair of
    preference 1/2 prefers neither side: its margin is 0, chosen = rejected = the mean, and its accuracy is 1/2, as is
    that of equal rewards.
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


def _log_ratio(current: TokenLogps, anchor: TokenLogps, reduction: str) -> Tensor:
    return current.mean - anchor.mean if reduction == "mean" else current.sum - anchor.sum
