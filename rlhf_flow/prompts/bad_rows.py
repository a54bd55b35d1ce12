"""Rows that cannot be prompts: refused all at once, or dropped and counted, by the kind of their fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

KINDS = ("empty", "malformed", "too_long")
ACTIONS = ("refuse", "drop")
SHOWN = 10  # rows that a refusal lists


class BadRowError(ValueError):
    """Why a row cannot be a prompt: the place, the problem and the fix."""

    def __init__(self, place: str, problem: str, fix: str, *, kind: str = "malformed") -> None:
        assert kind in KINDS
        super().__init__(f"{place}: {problem}. Fix: {fix}.")
        self.place, self.problem, self.fix, self.kind = place, problem, fix, kind


class BadRows:
    """Collects the bad rows of a data set. `drop`: kind of fault -> whether such rows are dropped."""

    def __init__(self, drop: Mapping[str, bool], counts: Counter[str]) -> None:
        self._drop = drop
        self._counts = counts
        self._refused: list[BadRowError] = []
        self._seen = 0

    def good(self) -> None:
        """Count a row without a fault."""
        self._seen += 1

    def add(self, row: BadRowError) -> None:
        """Count a row that is dropped, or keep one that is refused."""
        self._seen += 1
        if self._drop.get(row.kind, False):
            self._counts[f"{row.kind}_dropped"] += 1
        else:
            self._refused.append(row)

    def check(self) -> None:
        """Raises ValueError, naming the first rows and their number, if any row is refused."""
        if not self._refused:
            return
        kinds = {row.kind for row in self._refused}
        drop = f"Or drop and count such rows: {' '.join(f'prompts.{kind}=drop' for kind in KINDS if kind in kinds)}."
        if len(self._refused) == 1:
            raise ValueError(f"{self._refused[0]} {drop}")
        listed = "\n".join(f"- {row.place}: {row.problem}" for row in self._refused[:SHOWN])
        fixes = "; ".join(dict.fromkeys(row.fix for row in self._refused[:SHOWN]))
        which = f", the first {SHOWN}" if len(self._refused) > SHOWN else ""
        raise ValueError(
            f"{len(self._refused)} of {self._seen} rows cannot be prompts{which}:\n{listed}\nFix: {fixes}. {drop}"
        )
