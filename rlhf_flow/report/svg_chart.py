"""Curves and stacked bars over the rounds, as inline SVG without scripts, in the colours of the page's style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from rlhf_flow.report import axes as marks
from rlhf_flow.report.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, Scale, drawn, hover, limits, text
from rlhf_flow.report.format import compact, short

TINTS = 5  # of one colour, in the layers of a stack; classes t1..t5 of the page's style
DOTTED = 40  # rounds up to which every point is drawn
LABEL_GAP = 11.0  # between the labels of two curves

Events = Mapping[int, Sequence[str]]  # round -> its problems


@dataclass(frozen=True)
class Curve:
    """One measure over the rounds, with its interval."""

    name: str
    points: Mapping[int, float]
    colour: str  # class of the page's style
    dash: int = 0  # of its line, 0 to 3, so that curves on one axis differ in more than colour
    low: Mapping[int, float] = field(default_factory=dict)
    high: Mapping[int, float] = field(default_factory=dict)
    along: Mapping[int, float] = field(default_factory=dict)  # round -> place; if it is empty, the round is the place

    def place(self, round: int) -> float:
        """On the horizontal axis."""
        return self.along[round] if self.along else round

    def ordered(self, rounds: Iterable[int]) -> list[int]:
        """From left to right."""
        return sorted(sorted(rounds), key=self.place)

    @property
    def band(self) -> dict[int, tuple[float, float]]:
        """round -> interval, if both of its ends can be drawn."""
        both = {round: (self.low[round], self.high[round]) for round in self.ordered(self.low) if round in self.high}
        return {round: ends for round, ends in both.items() if all(map(drawn, ends))}

    @property
    def heights(self) -> list[float]:
        """Every value that the axis must contain."""
        ends = [value for pair in self.band.values() for value in pair]
        return [*(value for value in self.points.values() if drawn(value)), *ends]


@dataclass(frozen=True)
class Layer:
    """One layer of stacked bars; negative values are not drawn."""

    name: str
    values: Mapping[int, float]
    colour: str
    tint: int = 1

    def height(self, round: int) -> float:
        value = self.values.get(round, 0.0)
        return value if drawn(value) and value > 0 else 0.0

    @property
    def total(self) -> float:
        return sum(self.height(round) for round in self.values)


def curves(
    title: str,
    lines: Sequence[Curve],
    *,
    rounds: Iterable[int],
    base: float | None = None,
    scale: Scale = Scale(),  # noqa: B008  # it is immutable
    events: Events | None = None,
    across: str = "",
) -> Markup:
    """Curves over `rounds` on one axis, with a dashed line at `base`.

    A round without a value is bridged. A value that is not finite breaks the curve and is marked on the axis.
    `across`: the horizontal axis if it is not the round but `Curve.along`, which begins at 0.
    """
    span = sorted(rounds)
    places: list[float] = [0.0, *sorted(at for one in lines for at in one.along.values())] if across else [*span]
    heights = [value for one in lines for value in one.heights]
    axes = Axes(places[0], places[-1], *limits(heights + ([base] if base is not None and heights else []), scale))
    body = [marks.grid(axes), marks.place_labels(axes, across) if across else marks.round_labels(axes)]
    body.append(marks.broken({round: axes.x(round) for round in span}, events or {}))
    if base is not None:
        body.append(marks.line("base", LEFT, axes.y(base), WIDTH - RIGHT, axes.y(base)))
    body += [_curve(axes, one, named=len(lines) > 1) for one in lines]
    body.append(_ends(axes, lines))
    summaries = [_summary(one.points) if len(lines) == 1 else f"{one.name} {_summary(one.points)}" for one in lines]
    return marks.picture(f"{title}: {'; '.join(summaries)}", body)


def stack(title: str, layers: Sequence[Layer], *, rounds: Iterable[int], events: Events | None = None) -> Markup:
    """One bar a round, of `layers` from the bottom up."""
    span = sorted(rounds)
    totals = {round: sum(layer.height(round) for layer in layers) for round in span}
    axes = Axes(span[0], span[-1], *limits([0.0, *totals.values()], Scale()))
    pitch = (WIDTH - LEFT - RIGHT) / len(span)
    wide = min(max(pitch * 0.7, 1.0), 36.0)
    centre = {round: LEFT + (at + 0.5) * pitch for at, round in enumerate(span)}
    body = [marks.grid(axes), marks.under(centre), marks.broken(centre, events or {})]
    form = Markup('<rect class="{} t{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
    for round in span:
        floor = 0.0
        for layer in layers:
            value = layer.height(round)
            if value > 0:
                top, bottom = axes.y(floor + value), axes.y(floor)
                tip = hover(f"round {round}, {layer.name}: {short(value)} of {short(totals[round])}")
                left = centre[round] - wide / 2
                body.append(form.format(layer.colour, layer.tint, left, top, wide, bottom - top, tip))
            floor += value
        if len(span) <= 12:
            body.append(text("end", centre[round], axes.y(totals[round]) - 4, compact(totals[round]), "middle"))
    return marks.picture(f"{title}, total: {_summary(totals)}", body)


def fold(layers: Sequence[Layer]) -> list[Layer]:
    """At most `TINTS` layers of each colour: the smallest others are summed, in grey."""
    kept: list[Layer] = []
    rest: list[Layer] = []
    for layer in layers:
        family = sorted((one for one in layers if one.colour == layer.colour), key=lambda one: -one.total)
        (kept if layer in family[:TINTS] else rest).append(layer)
    if not rest:
        return kept
    rounds = {round for layer in rest for round in layer.values}
    summed = {round: sum(layer.height(round) for layer in rest) for round in sorted(rounds)}
    return [*kept, Layer(f"{len(rest)} others", summed, "other", TINTS)]


# -- parts of a chart -------------------------------------------------------------------------------------------------


def _curve(axes: Axes, one: Curve, *, named: bool) -> Markup:
    radius = 3.2 if len(one.points) <= DOTTED else 0.0
    name = f"{one.name}, " if named else ""
    points = [_point(axes, one, at, radius, name) for at in one.ordered(one.points)]
    path = Markup('<path class="curve d{}" d="{}"/>').format(one.dash, _path(axes, one))
    return Markup('<g class="{}">{}{}{}</g>').format(one.colour, _shade(axes, one), path, Markup("").join(points))


def _ends(axes: Axes, lines: Sequence[Curve]) -> Markup:
    """The last value at the end of each curve, without overlaps.

    Of several curves, those that end before the end of the axis have no label: it would cover the others.
    """
    seen = [[(one.place(at), one.points[at]) for at in one.points if drawn(one.points[at])] for one in lines]
    ends = [max(points) for points in seen if points]
    ends = ends if len(lines) == 1 else [end for end in ends if end[0] == axes.last]
    placed: list[Markup] = []
    below = TOP - LABEL_GAP
    for at, value in sorted(ends, key=lambda end: axes.y(end[1])):
        below = max(axes.y(value) + 4, below + LABEL_GAP)
        placed.append(text("end", axes.x(at) + 7, below, compact(value), "start"))
    return Markup("").join(placed)


def _path(axes: Axes, one: Curve) -> str:
    steps, pen = [], "M"
    for round in one.ordered(one.points):
        if drawn(one.points[round]):
            steps.append(f"{pen}{axes.x(one.place(round)):.1f} {axes.y(one.points[round]):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def _shade(axes: Axes, one: Curve) -> Markup:
    ends = [(axes.x(one.place(round)), axes.y(low), axes.y(high)) for round, (low, high) in one.band.items()]
    if not ends:
        return Markup("")
    if len(ends) == 1:
        ((x, low, high),) = ends
        return marks.line("curve", x, low, x, high)
    over = [f"{x:.1f} {high:.1f}" for x, _, high in ends]
    below = [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(ends)]
    return Markup('<path class="band" d="M{}Z"/>').format("L".join(over + below))


def _point(axes: Axes, one: Curve, round: int, radius: float, name: str) -> Markup:
    value, ends = one.points[round], one.band.get(round)
    interval = f" ({short(ends[0])} to {short(ends[1])})" if ends else ""
    distance = f" at {short(one.along[round])}" if one.along else ""
    tip = hover(f"{name}round {round}{distance}: {short(value)}{interval}")
    at = axes.x(one.place(round))
    if not drawn(value):
        form = Markup('<text class="broken" x="{:.1f}" y="{}" text-anchor="middle">×{}</text>')
        return form.format(at, HEIGHT - BOTTOM, tip)
    dot = Markup('<g><circle cx="{x}" cy="{y}" r="{}"/><circle class="hit" cx="{x}" cy="{y}" r="9"/>{}</g>')
    x, y = f"{at:.1f}", f"{axes.y(value):.1f}"
    return dot.format(radius, tip, x=x, y=y)


def _summary(points: Mapping[int, float]) -> str:
    """The first and the last value, for screen readers."""
    ends = [*sorted(points.items())[:1], *sorted(points.items())[1:][-1:]]
    return ", then ".join(f"{short(value)} in round {round}" for round, value in ends)
