"""A chart with its title, its note and its numbers, also as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup

from rlhf_flow.report.facts import broken
from rlhf_flow.report.format import short, slug
from rlhf_flow.report.measures import Measure, undecided
from rlhf_flow.report.run_folder import Run
from rlhf_flow.report.svg_chart import Curve, Events, Layer, curves, stack

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates a cell that begins with one of these


@dataclass(frozen=True)
class Table:
    """The numbers of a chart: one row a round; a value that was not measured is an empty cell."""

    rounds: Sequence[int]
    columns: Sequence[tuple[str, Mapping[int, float]]]

    @property
    def shown(self) -> list[tuple[str, list[str]]]:
        """Name and cells of each column, rounded for reading."""
        cells = [[short(values[at]) if at in values else "" for at in self.rounds] for _, values in self.columns]
        names = [name for name, _ in self.columns]
        return [("round", list(map(str, self.rounds))), *zip(names, cells, strict=True)]

    @property
    def text(self) -> str:
        """CSV with every digit."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["round", *(f"'{name}" if name.startswith(_FORMULA) else name for name, _ in self.columns)])
        for at in self.rounds:
            writer.writerow([at, *(_exact(values[at]) if at in values else "" for _, values in self.columns)])
        return out.getvalue()

    @property
    def address(self) -> str:
        """A `data:` URL of the CSV."""
        return f"data:text/csv;charset=utf-8,{quote(self.text, safe=',.')}"


def _exact(value: float) -> str:
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


@dataclass(frozen=True)
class Figure:
    title: str
    note: str
    picture: Markup
    table: Table
    legend: tuple[tuple[str, str], ...] = ()  # CSS classes of the colour, name

    @property
    def slug(self) -> str:
        """The name of its CSV file."""
        return slug(self.title)


@dataclass(frozen=True)
class Section:
    title: str
    figures: tuple[Figure, ...]
    note: str = ""

    @property
    def anchor(self) -> str:
        return slug(self.title)


def measured(run: Run, wanted: Iterable[Measure]) -> Iterator[Figure]:
    """A figure for each measure that any round has."""
    for measure in wanted:
        one = curve(run, measure, measure.title, measure.colour)
        if one.points:
            yield lined(measure, [one], rounds=run.metrics, events=broken(run))


def curve(run: Run, measure: Measure, name: str, colour: str, dash: int = 0) -> Curve:
    low, high = run.series(f"{measure.key}_low"), run.series(f"{measure.key}_high")
    return Curve(name, run.series(measure.key), colour, dash, low=low, high=high)


def lined(
    measure: Measure,
    lines: Sequence[Curve],
    *,
    rounds: Iterable[int],
    events: Events,
    named: bool = False,
    across: str = "",
) -> Figure:
    """Curves of one measure on one axis. Several curves have a legend, and so has one if it is `named`.

    `across`: the horizontal axis, as for `curves`.
    """
    named = named or len(lines) > 1
    picture = curves(
        measure.title, lines, rounds=rounds, base=measure.base, scale=measure.scale, events=events, across=across
    )
    legend = tuple((one.colour, one.name) for one in lines) if named else ()
    together = all(one.along == lines[0].along for one in lines)
    columns = [(across, lines[0].along)] if across and together else []
    columns += [
        (f"{one.name} {end}".strip() if named else end or one.name.lower(), values)
        for one in lines
        for end, values in (
            *([] if together else [(across, one.along)]),
            ("", one.points),
            ("low", one.low),
            ("high", one.high),
        )
        if values
    ]
    table = Table(sorted({round for one in lines for round in one.points}), columns)
    return Figure(measure.title, _note(measure, lines, decided=not across), picture, table, legend)


def stacked(run: Run, title: str, note: str, layers: Sequence[Layer]) -> Iterator[Figure]:
    """Bars, if any round has a value."""
    rounds = sorted({round for layer in layers for round in layer.values})
    if rounds:
        picture = stack(title, layers, rounds=rounds, events=broken(run))
        table = Table(rounds, [(layer.name, layer.values) for layer in layers])
        yield Figure(title, note, picture, table, tuple((f"{one.colour} t{one.tint}", one.name) for one in layers))


def _note(measure: Measure, lines: Sequence[Curve], *, decided: bool) -> str:
    """What is measured, whether the last value differs from `base`, and whether the axis is wider than the values.

    `decided`: whether to compare with `base`.
    """
    clauses = [measure.note]
    if any(one.band for one in lines):
        clauses.append("shaded: 95 % interval over prompts")
    for one in lines if decided and measure.base is not None else []:
        last = max(one.points)
        name = f"round {last}" if len(lines) == 1 else one.name
        clause = undecided(name, measure.base or 0.0, one.low.get(last), one.high.get(last))
        clauses += [clause] if clause and last > min(one.points) else []
    heights = [value for one in lines for value in one.heights]
    if measure.scale.widens(heights + ([] if measure.base is None or not heights else [measure.base])):
        clauses.append("the axis has its minimum range")
    return "; ".join(clauses)
