"""Agreement of annotators on the pairs that more than one of them has judged.

Krippendorff 2011, Computing Krippendorff's Alpha-Reliability: nominal data, any number of annotators, missing verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    pairs: int  # with verdicts of two annotators or more
    share: float  # of pairs of annotators that agree, on average over the pairs
    alpha: float | None  # Krippendorff's alpha: 1 perfect, 0 chance; None if all verdicts are equal


def agreement(shared: Sequence[Sequence[float]]) -> Agreement | None:
    """Agreement given the verdicts on each pair. None if no pair has two verdicts."""
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
    """The probability that two of them, drawn without replacement, are equal."""
    n = verdicts.total()
    return sum(count * (count - 1) for count in verdicts.values()) / (n * (n - 1))
