"""The curves and bars: every value where it belongs."""

from __future__ import annotations

import math
import re

from hypothesis import example, given
from hypothesis import strategies as st

from rlhf_flow.report import chart

values = st.floats(min_value=-1e9, max_value=1e9)


@given(st.dictionaries(st.integers(0, 200), values, min_size=1, max_size=60))
def test_every_value_has_its_point_inside_the_picture_in_its_order(points: dict[int, float]) -> None:
    svg = chart.curve("It", points, rounds=points)
    centres = re.findall(r'class="hit" cx="([^"]+)" cy="([^"]+)"', svg)
    assert len(centres) == len(points)
    for x, y in centres:
        assert chart.LEFT <= float(x) <= chart.WIDTH - chart.RIGHT
        assert chart.TOP - 0.1 <= float(y) <= chart.HEIGHT - chart.BOTTOM + 0.1
    places = {round: float(y) for round, (_, y) in zip(sorted(points), centres, strict=True)}
    for one, other in zip(sorted(points), sorted(points)[1:], strict=False):
        if points[one] > points[other]:
            assert places[one] <= places[other]  # up is more


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.integers(0, 50))
def test_the_bars_of_a_round_add_up(heights: list[float], round: int) -> None:
    layers = {f"layer {at}": {round: height} for at, height in enumerate(heights)}
    drawn = [
        float(height)
        for height in re.findall(r'<rect [^>]*height="([^"]+)"', chart.stack("It", layers, rounds=[round]))
    ]
    top = chart._range([0.0, sum(heights)])[1]
    whole = sum(heights) / top * (chart.HEIGHT - chart.TOP - chart.BOTTOM)
    assert math.isclose(sum(drawn), whole, abs_tol=0.05 * len(heights) + 0.05)


@given(st.dictionaries(st.text(min_size=1), st.dictionaries(st.integers(0, 3), st.floats(0, 100)), max_size=20))
def test_folding_loses_nothing(layers: dict[str, dict[int, float]]) -> None:
    folded = chart.fold(layers)
    assert len(folded) <= chart.COLOURS
    for round in range(4):
        before = math.fsum(layer.get(round, 0.0) for layer in layers.values())
        assert math.isclose(math.fsum(layer.get(round, 0.0) for layer in folded.values()), before, abs_tol=1e-6)


@example(low=-268435456.125, span=0.5)
@given(values, st.floats(min_value=1e-3, max_value=1e9))
def test_the_grid_is_a_few_lines_and_its_ends_are_the_limits(low: float, span: float) -> None:
    svg = chart.curve("It", {0: low, 1: low + span}, rounds=[0, 1])
    lines = [float(y) for y in re.findall(r'<line class="grid" [^>]*y1="([^"]+)"', svg)]
    assert 2 <= len(lines) <= 7
    assert math.isclose(max(lines), chart.HEIGHT - chart.BOTTOM, abs_tol=0.11)
    assert math.isclose(min(lines), chart.TOP, abs_tol=0.11)


def test_names_are_escaped() -> None:
    svg = chart.stack("<b>", {"</title><script>": {1: 2.0}}, rounds=[1])
    assert "<script>" not in svg
    assert "<b>" not in svg
