"""The curves and bars: every value where it belongs."""

from __future__ import annotations

import math
import re

from hypothesis import example, given
from hypothesis import strategies as st

from rlhf_flow.report import axes
from rlhf_flow.report import svg_chart as chart
from rlhf_flow.report.axes import Scale
from rlhf_flow.report.svg_chart import Curve, Layer

values = st.floats(min_value=-1e9, max_value=1e9)


@given(st.dictionaries(st.integers(0, 200), values, min_size=1, max_size=60))
def test_every_value_has_its_point_inside_the_picture_in_its_order(points: dict[int, float]) -> None:
    svg = chart.curves("It", [Curve("it", points, "eval")], rounds=points)
    centres = re.findall(r'class="hit" cx="([^"]+)" cy="([^"]+)"', svg)
    assert len(centres) == len(points)
    for x, y in centres:
        assert axes.LEFT <= float(x) <= axes.WIDTH - axes.RIGHT
        assert axes.TOP - 0.1 <= float(y) <= axes.HEIGHT - axes.BOTTOM + 0.1
    places = {round: float(y) for round, (_, y) in zip(sorted(points), centres, strict=True)}
    for one, other in zip(sorted(points), sorted(points)[1:], strict=False):
        if points[one] > points[other]:
            assert places[one] <= places[other]  # up is more


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.integers(0, 50))
def test_the_bars_of_a_round_add_up(heights: list[float], round: int) -> None:
    layers = [Layer(f"layer {at}", {round: height}, "policy") for at, height in enumerate(heights)]
    drawn = [
        float(height)
        for height in re.findall(r'<rect [^>]*height="([^"]+)"', chart.stack("It", layers, rounds=[round]))
    ]
    top = axes.limits([0.0, sum(heights)], Scale())[1]
    whole = sum(heights) / top * (axes.HEIGHT - axes.TOP - axes.BOTTOM)
    assert math.isclose(sum(drawn), whole, abs_tol=0.05 * len(heights) + 0.05)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.dictionaries(st.integers(0, 3), st.floats(0, 100))), max_size=20))
def test_folding_loses_nothing(drawn: list[tuple[str, dict[int, float]]]) -> None:
    layers = [Layer(str(at), values, colour) for at, (colour, values) in enumerate(drawn)]
    folded = chart.fold(layers)
    assert all(sum(layer.colour == colour for layer in folded) <= chart.TINTS for colour in "ab")
    for round in range(4):
        before = math.fsum(layer.height(round) for layer in layers)
        assert math.isclose(math.fsum(layer.height(round) for layer in folded), before, abs_tol=1e-6)


@example(low=-268435456.125, span=0.5)
@given(values, st.floats(min_value=1e-3, max_value=1e9))
def test_the_grid_is_a_few_lines_and_its_ends_are_the_limits(low: float, span: float) -> None:
    svg = chart.curves("It", [Curve("it", {0: low, 1: low + span}, "eval")], rounds=[0, 1])
    lines = [float(y) for y in re.findall(r'<line class="grid" [^>]*y1="([^"]+)"', svg)]
    assert 2 <= len(lines) <= 7
    assert math.isclose(max(lines), axes.HEIGHT - axes.BOTTOM, abs_tol=0.11)
    assert math.isclose(min(lines), axes.TOP, abs_tol=0.11)


def test_names_are_escaped() -> None:
    svg = chart.stack("<b>", [Layer("</title><script>", {1: 2.0}, "policy")], rounds=[1])
    assert "<script>" not in svg
    assert "<b>" not in svg


share = Scale(least=0.2, floor=0.0, ceiling=1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_an_axis_spans_at_least_what_its_scale_asks_for_and_nothing_impossible(values: list[float]) -> None:
    low, high, _ = axes.limits(values, share)
    assert high - low >= 0.2 - 1e-9
    assert -1e-9 <= low <= min(values) + 1e-9 and max(values) - 1e-9 <= high <= 1 + 1e-9


def test_a_change_of_two_thousandths_does_not_fill_the_chart() -> None:
    svg = chart.curves("It", [Curve("it", {0: 0.998, 1: 1.0}, "eval")], rounds=[0, 1], scale=share)
    (_, first), (_, last) = re.findall(r'class="hit" cx="([^"]+)" cy="([^"]+)"', svg)
    assert abs(float(first) - float(last)) < 0.02 * axes.HEIGHT


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9))
def test_an_axis_of_counts_starts_at_zero(values: list[float]) -> None:
    assert axes.limits(values, Scale(floor=0.0, zero=True))[0] == 0


def test_two_curves_share_an_axis_and_their_labels_keep_apart() -> None:
    lines = [Curve("one", {0: 1.0, 1: 2.0}, "run1"), Curve("two", {0: 1.0, 1: 2.001}, "run2", dash=1)]
    svg = chart.curves("It", lines, rounds=[0, 1])
    assert "one 1 in round 0, then 2 in round 1; two 1 in round 0" in svg
    labels = [float(y) for y in re.findall(r'<text class="end" x="[^"]+" y="([^"]+)"', svg)]
    assert len(labels) == 2 and abs(labels[0] - labels[1]) >= 10
    assert {*re.findall(r'class="curve (d.)"', svg)} == {"d0", "d1"}, "they differ in more than colour"


def test_of_several_curves_only_those_that_reach_the_last_round_are_labelled() -> None:
    lines = [Curve("one", {0: 1.0, 1: 2.0}, "run1"), Curve("two", {0: 1.0, 2: 3.0}, "run2", dash=1)]
    svg = chart.curves("It", lines, rounds=[0, 1, 2])
    assert re.findall(r'<text class="end"[^>]*>([^<]*)<', svg) == ["3"]


def test_large_counts_fit_beside_their_chart() -> None:
    svg = chart.curves("It", [Curve("it", {0: 0.0, 1: 812345.0}, "eval")], rounds=[0, 1])
    assert ">812k</text>" in svg and ">250k</text>" in svg and "e+" not in svg


def test_a_broken_round_is_marked_in_curves_and_in_bars() -> None:
    events = {1: ["a worker <died>"], 9: ["not drawn"]}
    lines = chart.curves("It", [Curve("it", {0: 1.0, 1: 2.0}, "eval")], rounds=[0, 1], events=events)
    bars = chart.stack("It", [Layer("it", {0: 1.0, 1: 2.0}, "eval")], rounds=[0, 1], events=events)
    for svg in (lines, bars):
        assert svg.count('class="event"') == 1
        assert "round 1: a worker &lt;died&gt;" in svg
