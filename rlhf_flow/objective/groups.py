"""Shared by the objectives of groups: log-ratios, and what a response is worth among its group's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_flow.types import GroupLogps

if TYPE_CHECKING:
    from torch import Tensor


def log_ratio(groups: GroupLogps, anchor: str, *, reduction: str = "sum") -> Tensor:
    """log pi(y|x) - log pi_anchor(y|x) of each response [A], in nats; over its tokens a sum or a mean."""
    current, other = groups.current, groups.anchors[anchor]
    return current.mean - other.mean if reduction == "mean" else current.sum - other.sum


def above_mean(groups: GroupLogps, values: Tensor) -> Tensor:
    """Values [A] minus the mean of their group, weighted by mass; exactly 0 if all values of the group are equal."""
    # In float32 the masses do not add up to 1, so the mean of equal values is another value.
    lowest = values.new_full(groups.weight.shape, float("inf")).scatter_reduce(0, groups.group, values, "amin")  # [G]
    above, mass = (values - lowest[groups.group]).double(), groups.mass.double()
    mean = groups.sum(mass * above) / groups.sum(mass)
    return (above - mean[groups.group]).to(values.dtype)


def advantage(groups: GroupLogps) -> Tensor:
    """The worth above the mean of the group [A]."""
    return above_mean(groups, groups.worth)


def spread(groups: GroupLogps) -> Tensor:
    """The standard deviation of the worth in each group [G]."""
    return groups.mean(advantage(groups) ** 2).sqrt()


def count(groups: GroupLogps) -> Tensor:
    """The number of samples in each group [G]; inf if the responses are enumerated with their probabilities."""
    import torch

    counted = groups.sum(torch.ones_like(groups.mass))
    return counted * torch.inf if groups.enumerated else counted
