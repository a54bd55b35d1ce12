"""Curves and stacked bars over the rounds, as SVG that stands in the page: no library, no script, any colour scheme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from rlhf_flow.report.text import number, short

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 42, 14, 28  # margins; the end of a curve is labelled in the right one
COLOURS = 8  # classes c1..c8 of the page's style
DOTTED = 40  # rounds up to which every point is drawn


@dataclass(frozen=True)
class Axes:
    """From rounds and values to places in the picture."""

    first: int
    last: int
    low: float
    high: float
    step: float  # between two lines of the grid

    def x(self, round: float) -> float:
        span = self.last - self.first
        part = 0.5 if span == 0 else (round - self.first) / span
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def curve(
    title: str,
    points: Mapping[int, float],
    *,
    rounds: Iterable[int],
    low: Mapping[int, float] | None = None,
    high: Mapping[int, float] | None = None,
    base: float | None = None,
    colour: int = 1,
) -> Markup:
    """One measure over `rounds`, with its interval from `low` to `high` and a dashed line at `base`.

    A round without a measure is bridged; a measure that is no number breaks the curve and is marked on the axis.
    """
    span = sorted(rounds)
    band = _band(low or {}, high or {})
    finite = {round: value for round, value in sorted(points.items()) if _drawn(value)}
    heights = [*finite.values(), *(value for edges in band.values() for value in edges)]
    heights += [base] if base is not None and heights else []
    axes = Axes(span[0], span[-1], *_range(heights))
    body = [_grid(axes), _rounds(axes)]
    if base is not None:
        body.append(_line("base", LEFT, axes.y(base), WIDTH - RIGHT, axes.y(base)))
    body.append(_shade(axes, band, colour))
    body.append(Markup('<path class="curve k{}" d="{}"/>').format(colour, _path(axes, points)))
    radius = 3.2 if len(points) <= DOTTED else 0.0
    body += [_point(axes, at, value, band.get(at), radius, colour) for at, value in sorted(points.items())]
    if finite:
        at, value = max(finite.items())
        body.append(_text("end", axes.x(at) + 7, axes.y(value) + 4, short(value), "start"))
    return _picture(f"{title}: {_spoken(points)}", body)


def stack(title: str, layers: Mapping[str, Mapping[int, float]], *, rounds: Iterable[int]) -> Markup:
    """One bar a round, of `layers` from the bottom up (at most `COLOURS`; see `fold`); values below 0 are left out."""
    span = sorted(rounds)
    totals = {round: sum(_height(layer, round) for layer in layers.values()) for round in span}
    axes = Axes(span[0], span[-1], *_range([0.0, *totals.values()]))
    pitch = (WIDTH - LEFT - RIGHT) / len(span)
    wide = min(max(pitch * 0.7, 1.0), 36.0)
    centre = {round: LEFT + (at + 0.5) * pitch for at, round in enumerate(span)}
    body = [_grid(axes), *_under_bars(centre)]
    for round in span:
        floor = 0.0
        for colour, (name, layer) in enumerate(layers.items(), start=1):
            value = _height(layer, round)
            if value > 0:
                box = Markup('<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
                top, bottom = axes.y(floor + value), axes.y(floor)
                hover = _hover(f"round {round}, {name}: {short(value)} of {short(totals[round])}")
                body.append(box.format(colour, centre[round] - wide / 2, top, wide, bottom - top, hover))
            floor += value
        if len(span) <= 12:
            body.append(_text("end", centre[round], axes.y(totals[round]) - 4, short(totals[round]), "middle"))
    return _picture(f"{title}, total: {_spoken(totals)}", body)


def fold(layers: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    """At most `COLOURS` layers: the smallest are summed as `other`."""
    if len(layers) <= COLOURS:
        return dict(layers)
    by_size = sorted(layers, key=lambda name: -sum(_height(layers[name], round) for round in layers[name]))
    kept = set(by_size[: COLOURS - 1])
    rest: dict[int, float] = {}
    for name in by_size[COLOURS - 1 :]:
        for round in layers[name]:
            rest[round] = rest.get(round, 0.0) + _height(layers[name], round)
    return {name: layer for name, layer in layers.items() if name in kept} | {f"{len(layers) - len(kept)} others": rest}


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` from `low` to `high`."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [at * step for at in range(first, last + 1)]


def _step(rough: float) -> float:
    """The next number upwards that people count in."""
    size: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * size for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * size >= rough * (1 - 1e-9))


def _range(values: list[float]) -> tuple[float, float, float]:
    """Limits on round numbers that hold all values, and the step between those; a constant stands in the middle."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):  # less is lost in the rounding of its ticks
        room = 0.1 * abs(high) if abs(high) > 1e-9 else 1.0
        low, high = (low - room, high + room) if low else (0.0, 1.0)
    step = _step((high - low) / 4)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _height(layer: Mapping[int, float], round: int) -> float:
    value = layer.get(round, 0.0)
    return value if _drawn(value) and value > 0 else 0.0


def _drawn(value: float) -> bool:
    """Whether a value has a place in a picture: NaN and whatever is infinite, or as good as, has none."""
    return abs(value) < 1e100


def _band(low: Mapping[int, float], high: Mapping[int, float]) -> dict[int, tuple[float, float]]:
    both = {round: (low[round], high[round]) for round in sorted(low) if round in high}
    return {round: edges for round, edges in both.items() if all(map(_drawn, edges))}


# -- marks ------------------------------------------------------------------------------------------------------------


def _grid(axes: Axes) -> Markup:
    marks = ticks(axes.low, axes.high, axes.step)
    digits = max(0, -math.floor(math.log10(axes.step) + 1e-9))
    halves = abs(axes.step * 10**digits - 2.5) < 1e-6
    plain = 1e-3 <= max(abs(axes.low), abs(axes.high)) < 1e5
    form = ".2g" if not plain else f",.{digits + halves}f"
    lines = [_line("grid", LEFT, axes.y(mark), WIDTH - RIGHT, axes.y(mark)) for mark in marks]
    labels = [_text("tick", LEFT - 6, axes.y(mark) + 3.5, number(mark, form), "end") for mark in marks]
    return Markup("").join([*lines, *labels])


def _rounds(axes: Axes) -> Markup:
    marks = [axes.first]
    if axes.last > axes.first:
        step = max(_step((axes.last - axes.first) / 6), 1.0)
        marks = [int(mark) for mark in ticks(axes.first, axes.last, step) if mark == int(mark)]
    labels = [_text("tick", axes.x(mark), HEIGHT - 10, str(mark), "middle") for mark in marks]
    return Markup("").join([*labels, _axis()])


def _under_bars(centre: Mapping[int, float]) -> list[Markup]:
    every = math.ceil(len(centre) / 8)
    labelled = list(centre.items())[::every]
    return [_axis(), *(_text("tick", x, HEIGHT - 10, str(round), "middle") for round, x in labelled)]


def _axis() -> Markup:
    return _text("tick", 2, HEIGHT - 10, "round", "start")


def _path(axes: Axes, points: Mapping[int, float]) -> str:
    steps, pen = [], "M"
    for round, value in sorted(points.items()):
        if _drawn(value):
            steps.append(f"{pen}{axes.x(round):.1f} {axes.y(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def _shade(axes: Axes, band: Mapping[int, tuple[float, float]], colour: int) -> Markup:
    if not band:
        return Markup("")
    if len(band) == 1:
        round, (low, high) = next(iter(band.items()))
        return _line(f"curve k{colour}", axes.x(round), axes.y(low), axes.x(round), axes.y(high))
    over = [f"{axes.x(round):.1f} {axes.y(high):.1f}" for round, (_, high) in band.items()]
    under = [f"{axes.x(round):.1f} {axes.y(low):.1f}" for round, (low, _) in reversed([*band.items()])]
    return Markup('<path class="band c{}" d="M{}Z"/>').format(colour, "L".join(over + under))


def _point(
    axes: Axes, round: int, value: float, edges: tuple[float, float] | None, radius: float, colour: int
) -> Markup:
    interval = f" ({short(edges[0])} to {short(edges[1])})" if edges else ""
    hover = _hover(f"round {round}: {short(value)}{interval}")
    if not _drawn(value):
        broken = Markup('<text class="broken" x="{:.1f}" y="{}" text-anchor="middle">×{}</text>')
        return broken.format(axes.x(round), HEIGHT - BOTTOM, hover)
    dot = Markup('<g><circle class="c{}" cx="{x}" cy="{y}" r="{}"/><circle class="hit" cx="{x}" cy="{y}" r="9"/>{}</g>')
    x, y = f"{axes.x(round):.1f}", f"{axes.y(value):.1f}"
    return dot.format(colour, radius, hover, x=x, y=y)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    form = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return form.format(kind, x1, y1, x2, y2)


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> Markup:
    form = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return form.format(kind, x, y, anchor, text)


def _hover(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _spoken(points: Mapping[int, float]) -> str:
    """What a reader who does not see the picture is told."""
    ends = [*sorted(points.items())[:1], *sorted(points.items())[1:][-1:]]
    return ", then ".join(f"{short(value)} in round {round}" for round, value in ends)


def _picture(label: str, body: Iterable[Markup]) -> Markup:
    form = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return form.format(WIDTH, HEIGHT, label, Markup("").join(body))
