"""Mutants that no test can tell from the original, each with its proof. They are not counted.

An entry that is no mutant any more is an error: the code has changed, and the proof may be of something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mutation.operators import Mutant


@dataclass(frozen=True)
class Equivalent:
    path: str
    before: str  # the line, without indentation and comment
    after: str
    proof: str

    @property
    def diff(self) -> str:
        return f"- {self.before}\n+ {self.after}"


EQUIVALENTS: tuple[Equivalent, ...] = ()


def stale(known: Iterable[Equivalent], found: Iterable[Mutant]) -> list[Equivalent]:
    """The entries that are not exactly one mutant."""
    keys = [(mutant.path, mutant.before, mutant.after) for mutant in found]
    return [entry for entry in known if keys.count((entry.path, entry.before, entry.after)) != 1]


def proof(known: Iterable[Equivalent], mutant: Mutant) -> str | None:
    """Why a mutant is equivalent, where it is."""
    key = mutant.path, mutant.before, mutant.after
    return next((entry.proof for entry in known if (entry.path, entry.before, entry.after) == key), None)
