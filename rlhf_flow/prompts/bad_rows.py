"""Rows that cannot be prompts: refused all at once, or dropped and counted, by the kind of their fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

KINDS = ("empty", "malformed", "too_long")
WHAT_TO_DO = ("refuse", "drop")
SHOWN = 10  # rows of a refusal


class BadRowError(ValueError):
    """Why a row cannot be a prompt: the place, what is wrong there, and what the user can do."""

    def __init__(self, place: str, problem: str, fix: str, *, kind: str = "malformed") -> None:
        assert kind in KINDS
        super().__init__(f"{place}: {problem}. Fix: {fix}.")
        self.place, self.problem, self.fix, self.kind = place, problem, fix, kind


class BadRows:
    """The bad rows of a data set. `drop` names the kinds of fault whose rows are dropped."""

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
        first = self._refused[0]
        dropping = " ".join(f"prompts.{kind}=drop" for kind in KINDS if kind in {row.kind for row in self._refused})
        drop = f"Or drop and count such rows: {dropping}."
        if len(self._refused) == 1:
            raise ValueError(f"{first} {drop}")
        listed = "\n".join(f"- {row.place}: {row.problem}" for row in self._refused[:SHOWN])
        fixes = "; ".join(dict.fromkeys(row.fix for row in self._refused[:SHOWN]))
        which = f", the first {SHOWN}" if len(self._refused) > SHOWN else ""
        raise ValueError(
            f"{len(self._refused)} of {self._seen} rows cannot be prompts{which}:\n{listed}\nFix: {fixes}. {drop}"
        )
