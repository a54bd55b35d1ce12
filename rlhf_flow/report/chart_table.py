"""The numbers of a chart as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from rlhf_flow.report.format import short

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one of these


@dataclass(frozen=True)
class Table:
    """One row a round; a value that was not measured is an empty cell."""

    rounds: tuple[int, ...]
    columns: tuple[tuple[str, Mapping[int, float]], ...]

    @property
    def shown(self) -> list[tuple[str, list[str]]]:
        """Name and cells of each column, rounded for reading."""
        rows = [
            (name, [short(values[at]) if at in values else "" for at in self.rounds]) for name, values in self.columns
        ]
        return [("round", list(map(str, self.rounds))), *rows]

    @property
    def text(self) -> str:
        """CSV with every digit."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["round", *(_cell(name) for name, _ in self.columns)])
        for at in self.rounds:
            writer.writerow([at, *(_exact(values[at]) if at in values else "" for _, values in self.columns)])
        return out.getvalue()

    @property
    def address(self) -> str:
        """A `data:` address that holds the CSV."""
        return f"data:text/csv;charset=utf-8,{quote(self.text, safe=',.')}"


def _cell(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA) else name


def _exact(value: float) -> str:
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
