"""Held-out answers for reading: those that changed most from one evaluated round to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("prompt_id", "prompt", "start", "answer", "win", "utility", "start_utility", "length", "truncated")
COMPARED = 400  # characters of each text that the similarity reads


@dataclass(frozen=True)
class Answer:
    """The answers of the start and of a later policy to one held-out prompt. None: not recorded by the run."""

    prompt_id: str = ""
    prompt: str = ""
    start: str = ""
    answer: str = ""
    win: float | None = None  # P(the answer beats the start's)
    utility: float | None = None
    start_utility: float | None = None
    length: int | None = None  # tokens
    truncated: bool | None = None


@dataclass(frozen=True)
class Change:
    """The answers of two policies to one held-out prompt."""

    prompt_id: str
    prompt: str
    before: str
    after: str
    before_utility: float | None
    after_utility: float | None
    wins: tuple[float | None, float | None]  # P(it beats the start's answer), of both

    @classmethod
    def since_start(cls, one: Answer) -> Change:
        utilities = one.start_utility, one.utility
        return cls(one.prompt_id, one.prompt, one.start, one.answer, *utilities, wins=(0.5, one.win))

    @classmethod
    def since(cls, before: Answer, after: Answer) -> Change:
        utilities = before.utility, after.utility
        wins = before.win, after.win
        return cls(after.prompt_id, after.prompt, before.answer, after.answer, *utilities, wins=wins)

    @property
    def size(self) -> tuple[float, float, float]:
        """By utility, then by win probability; by the text alone if both are the same or unknown."""
        if self.before == self.after:  # an unchanged text counts as unchanged, whatever its scores
            return 0.0, 0.0, 0.0
        utility, win = _distance(self.before_utility, self.after_utility), _distance(*self.wins)
        return utility, win, 0.0 if utility or win else 1 - _similarity(self.before, self.after)


def largest(changes: Sequence[Change], n: int) -> list[int]:
    """The positions of the `n` largest changes, the largest first."""
    return sorted(range(len(changes)), key=lambda at: (*(-size for size in changes[at].size), at))[:n]


def compared_file(run_dir: Path, round: int) -> Path:
    return run_dir / "rounds" / f"{round:05d}" / "evaluation" / "compared.parquet"


def answers(run_dir: Path, round: int) -> list[Answer]:
    """In the order of the file. Raises ValueError, naming the file, if it cannot be read."""
    path = compared_file(run_dir, round)
    try:
        held = [name for name in COLUMNS if name in pq.read_schema(path).names]  # older runs recorded fewer
        return [Answer(**row) for row in pq.read_table(path, columns=held).to_pylist()]
    except (pa.ArrowException, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no table of answers ({error}). Fix: restore it, or delete it to omit these answers."
        ) from error


@dataclass(frozen=True)
class Since:
    """The answers of a round that changed most since the last evaluated round. `round` 0 is the start."""

    round: int
    changes: tuple[Change, ...] = ()
    of: int = 0  # held-out prompts


@dataclass
class Samples:
    """Which changes to show of each round of a run.

    A prompt is not shown in two evaluated rounds in a row if there are others.
    """

    run_dir: Path
    n: int = 3
    _shown: dict[int, Since] = field(default_factory=dict)

    def at(self, round: int) -> Since | None:
        """The changes of a round; None for the start, and for a round without answers."""
        last = 0
        for each in range(1, round + 1):
            if each not in self._shown and compared_file(self.run_dir, each).exists():
                self._shown[each] = self._since(last, each)
            last = each if each in self._shown else last
        return self._shown.get(round)

    def _since(self, last: int, round: int) -> Since:
        now = answers(self.run_dir, round)
        then: Mapping[str, Answer] = {one.prompt_id: one for one in answers(self.run_dir, last)} if last else {}
        changes = [
            Change.since(then[one.prompt_id], one) if one.prompt_id in then else Change.since_start(one) for one in now
        ]
        before = {one.prompt_id for one in self._shown[last].changes} if last else set()
        order = largest(changes, len(changes))
        order.sort(key=lambda at: changes[at].prompt_id in before)  # stable: those of the last round come last
        chosen = order[: self.n]
        return Since(last, tuple(changes[at] for at in chosen), len(changes))


def _distance(one: float | None, other: float | None) -> float:
    size = abs(one - other) if one is not None and other is not None else math.nan
    return size if math.isfinite(size) else 0.0


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one[:COMPARED], other[:COMPARED], autojunk=False).quick_ratio()


COLUMNS_OF_CHANGES = ("prompt", "before", "after", "utility before", "utility after")


def rows_of(since: Since | None) -> list[tuple[str, str, str, float | None, float | None]]:
    """A row of `COLUMNS_OF_CHANGES` for each change, for the tables of observers."""
    changes = () if since is None else since.changes
    return [(one.prompt, one.before, one.after, one.before_utility, one.after_utility) for one in changes]
