"""A chart with its title, its note and its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rlhf_flow.report.chart_table import Table
from rlhf_flow.report.facts import broken
from rlhf_flow.report.format import slug
from rlhf_flow.report.measures import Measure, undecided
from rlhf_flow.report.run_folder import Run
from rlhf_flow.report.svg_chart import Curve, Layer, curves, stack


@dataclass(frozen=True)
class Figure:
    title: str
    note: str
    picture: Markup
    table: Table
    legend: tuple[tuple[str, str], ...] = ()  # classes of the colour, name

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
        low, high = run.series(f"{measure.key}_low"), run.series(f"{measure.key}_high")
        one = Curve(measure.title, run.series(measure.key), measure.colour, low=low, high=high)
        if one.points:
            yield lined(run, measure, [one])


def lined(run: Run, measure: Measure, lines: Sequence[Curve]) -> Figure:
    """Curves of one measure on one axis; several have a legend."""
    picture = curves(
        measure.title, lines, rounds=run.metrics, base=measure.base, scale=measure.scale, events=broken(run)
    )
    legend = tuple((one.colour, one.name) for one in lines) if len(lines) > 1 else ()
    return Figure(measure.title, note(measure, lines), picture, _table_of(lines), legend)


def stacked(run: Run, title: str, note: str, layers: Sequence[Layer]) -> Iterator[Figure]:
    """Bars, if any round has a value."""
    rounds = sorted({round for layer in layers for round in layer.values})
    if rounds:
        picture = stack(title, layers, rounds=rounds, events=broken(run))
        table = Table(tuple(rounds), tuple((layer.name, layer.values) for layer in layers))
        yield Figure(title, note, picture, table, tuple((f"{one.colour} t{one.tint}", one.name) for one in layers))


def note(measure: Measure, lines: Sequence[Curve]) -> str:
    """What is measured, whether the last value differs from `base`, and whether the axis is wider than the values."""
    said = [measure.note]
    if any(one.band for one in lines):
        said.append("shaded: 95 % interval over prompts")
    for one in lines if measure.base is not None else []:
        last = max(one.points)
        name = f"round {last}" if len(lines) == 1 else one.name
        clause = undecided(name, measure.base or 0.0, one.low.get(last), one.high.get(last))
        said += [clause] if clause and last > min(one.points) else []
    heights = [value for one in lines for value in one.heights]
    if measure.scale.widens(heights + ([] if measure.base is None or not heights else [measure.base])):
        said.append("the axis has its least span")
    return "; ".join(said)


def _table_of(lines: Sequence[Curve]) -> Table:
    columns = []
    for one in lines:
        columns.append((one.name.lower() if len(lines) == 1 else one.name, one.points))
        prefix = "" if len(lines) == 1 else f"{one.name} "
        if one.low or one.high:
            columns += [(f"{prefix}low", one.low), (f"{prefix}high", one.high)]
    rounds = sorted({round for one in lines for round in one.points})
    return Table(tuple(rounds), tuple(columns))
