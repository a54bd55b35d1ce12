"""The coordinates of a chart, and the SVG marks of every chart: grid, round numbers, rounds with a problem."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rlhf_flow.report.format import compact, number

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 56, 14, 28  # margins; the right one holds the label of a curve's last value


@dataclass(frozen=True)
class Scale:
    """The least range of an axis, so that a small change looks small."""

    least: float = 0.0  # span of the axis
    relative: float = 0.0  # span of the axis, as a share of the largest absolute value
    floor: float = -math.inf  # the smallest possible value of the measure
    ceiling: float = math.inf
    zero: bool = False  # whether the axis contains 0

    def wanted(self, values: Sequence[float]) -> float:
        """The least span of an axis that shows these values."""
        return max(self.least, self.relative * max((abs(value) for value in values), default=0.0))

    def widens(self, values: Sequence[float]) -> bool:
        """Whether the axis is wider than the values need."""
        shown = [*values, *([0.0] if self.zero else [])]
        return bool(values) and max(shown) - min(shown) < self.wanted(values)


@dataclass(frozen=True)
class Axes:
    """Maps places on the horizontal axis, which are rounds or distances, and values to coordinates."""

    first: float
    last: float
    low: float
    high: float
    step: float  # between two lines of the grid

    def x(self, place: float) -> float:
        span = self.last - self.first
        part = 0.5 if span == 0 else (place - self.first) / span
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def limits(values: Sequence[float], scale: Scale) -> tuple[float, float, float]:
    """Round numbers that contain all values and span at least the range of `scale`, and the step of the grid."""
    shown = [*values, *([0.0] if scale.zero else [])]
    low, high = (min(shown), max(shown)) if values else (0.0, 1.0)
    missing = scale.wanted(values) - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
        shift = max(scale.floor - low, 0.0) - max(high - scale.ceiling, 0.0)
        if scale.zero:  # 0 stays at the edge if all values have one sign
            shift = -low if min(shown) >= 0 else (-high if max(shown) <= 0 else shift)
        low, high = low + shift, high + shift
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):  # a smaller range is lost in the rounding of the ticks
        room = 0.1 * abs(high) if abs(high) > 1e-9 else 1.0
        low, high = (low - room, high + room) if low else (0.0, 1.0)
    step = round_step((high - low) / 4)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` from `low` to `high`."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [at * step for at in range(first, last + 1)]


def round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is at least `rough`."""
    size: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * size for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * size >= rough * (1 - 1e-9))


def drawn(value: float) -> bool:
    """False for NaN, infinite and absurdly large values."""
    return abs(value) < 1e100


# -- marks ------------------------------------------------------------------------------------------------------------


def grid(axes: Axes) -> Markup:
    marks = ticks(axes.low, axes.high, axes.step)
    digits = max(0, -math.floor(math.log10(axes.step) + 1e-9))
    halves = abs(axes.step * 10**digits - 2.5) < 1e-6
    largest = max(abs(axes.low), abs(axes.high))
    form = f",.{digits + halves}f" if 1e-3 <= largest < 1e4 else ".2g"
    lines = [line("grid", LEFT, axes.y(mark), WIDTH - RIGHT, axes.y(mark)) for mark in marks]
    labels = [
        text(
            "tick", LEFT - 6, axes.y(mark) + 3.5, compact(mark) if 1e4 <= largest < 1e15 else number(mark, form), "end"
        )
        for mark in marks
    ]
    return Markup("").join([*lines, *labels])


def round_labels(axes: Axes) -> Markup:
    marks = [int(axes.first)]
    if axes.last > axes.first:
        step = max(round_step((axes.last - axes.first) / 6), 1.0)
        marks = [int(mark) for mark in ticks(axes.first, axes.last, step) if mark == int(mark)]
    return under({mark: axes.x(mark) for mark in marks})


def place_labels(axes: Axes, name: str) -> Markup:
    """The name of the horizontal axis, and about six numbers."""
    marks = ticks(axes.first, axes.last, round_step((axes.last - axes.first) / 5)) if axes.last > axes.first else [0.0]
    labels = [text("tick", axes.x(mark), HEIGHT - 10, compact(round(mark, 9)), "middle") for mark in marks]
    return Markup("").join([*labels, text("tick", 2, HEIGHT - 10, name, "start")])


def under(places: Mapping[int, float]) -> Markup:
    """The numbers of rounds below the axis, at most about eight of them."""
    every = math.ceil(len(places) / 8) if places else 1
    labels = [text("tick", x, HEIGHT - 10, str(round), "middle") for round, x in list(places.items())[::every]]
    return Markup("").join([*labels, text("tick", 2, HEIGHT - 10, "round", "start")])


def broken(places: Mapping[int, float], events: Mapping[int, Sequence[str]]) -> Markup:
    """A vertical line and a triangle at each round with a problem. `places`: round -> x."""
    form = Markup('<g class="event">{}<polygon points="{:.1f},{} {:.1f},{} {:.1f},{}"/>{}</g>')
    marks = []
    for round, reasons in events.items():
        if round in places:
            x = places[round]
            tip = hover(f"round {round}: {'; '.join(reasons)}")
            corners = (x, HEIGHT - BOTTOM, x + 4, HEIGHT - BOTTOM + 7, x - 4, HEIGHT - BOTTOM + 7)
            marks.append(form.format(line("", x, TOP, x, HEIGHT - BOTTOM), *corners, tip))
    return Markup("").join(marks)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    form = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return form.format(kind, x1, y1, x2, y2)


def text(kind: str, x: float, y: float, words: str, anchor: str) -> Markup:
    form = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return form.format(kind, x, y, anchor, words)


def hover(words: str) -> Markup:
    return Markup("<title>{}</title>").format(words)


def picture(label: str, body: Iterable[Markup]) -> Markup:
    """The SVG; `label` is for screen readers."""
    form = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return form.format(WIDTH, HEIGHT, label, Markup("").join(body))
