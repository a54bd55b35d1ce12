"""What the tests of objectives of reward models share: pairs of numbers, as a learner with a head reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf_flow.protocols import Objective
from rlhf_flow.types import PairLogps, Sides, TokenLogps


def read(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], preference: Sequence[float]) -> PairLogps:
    """Pairs of responses with the numbers `first` and `second`, [P][D] each."""
    one, other = (torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in (first, second))
    whole = torch.ones(one.shape, dtype=torch.bool)
    p = torch.tensor(preference, dtype=torch.float64)
    return PairLogps(Sides(TokenLogps(one, whole), TokenLogps(other, whole)), {}, p, torch.ones(len(p)))


def random_pairs(seed: int, *, outputs: int, count: int = 5) -> PairLogps:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, outputs, generator=generator).tolist() for _ in range(2))
    return read(first, second, (0.05 + 0.9 * torch.rand(count, generator=generator)).tolist())


def swapped(pairs: PairLogps) -> PairLogps:
    sides = Sides(pairs.current.second, pairs.current.first)
    return PairLogps(sides, {}, 1 - pairs.preference, pairs.weight)


def losses(objective: Objective, pairs: PairLogps) -> list[float]:
    values: list[float] = objective.loss(pairs).values.tolist()
    return values
