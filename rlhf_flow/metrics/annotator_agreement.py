"""Do annotators agree? On the pairs that more than one of them has judged.

Krippendorff 2011, Computing Krippendorff's Alpha-Reliability: nominal data, any number of annotators, missing verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How far annotators say the same of the same pairs."""

    pairs: int  # that two annotators or more have a verdict on
    share: float  # of two annotators of such a pair, who say the same; the mean over the pairs
    alpha: float | None  # 1: always the same, 0: as chance would have it; None where nobody ever said anything else


def agreement(shared: Sequence[Sequence[float]]) -> Agreement | None:
    """Of the verdicts on each pair; those with fewer than two do not count. None where there is no other."""
    units = [Counter(verdicts) for verdicts in shared if len(verdicts) > 1]
    if not units:
        return None
    same = [_chance_same(unit) for unit in units]
    sizes = [unit.total() for unit in units]
    expected = 1 - _chance_same(sum(units, Counter()))
    observed = sum(size * (1 - p) for size, p in zip(sizes, same, strict=True)) / sum(sizes)
    alpha = 1 - observed / expected if expected else None
    return Agreement(len(units), share=sum(same) / len(same), alpha=alpha)


def _chance_same(verdicts: Counter[float]) -> float:
    """That two of them, drawn without putting back, are the same."""
    n = verdicts.total()
    return sum(count * (count - 1) for count in verdicts.values()) / (n * (n - 1))
