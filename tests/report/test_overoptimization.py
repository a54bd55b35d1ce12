"""The over-optimisation curve: on the page of a run, on that of several runs, and as a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_flow import report
from rlhf_flow.report.overoptimization import rows
from rlhf_flow.report.run_folder import read
from tests.report.test_page import CONFIG, charts, told

MakeRun = Callable[..., Path]

TITLE = "Over-optimisation"
FAR = (0.0, 4.0, 1.0, 9.0)  # KL by round: the policy of round 2 came back
GOLD, PROXY = (0.5, 0.7, 0.6, 0.4), (0.5, 0.8, 0.7, 0.9)


@pytest.fixture
def passed(make_run: MakeRun) -> Path:
    """A run whose win rate by the evaluation scorer falls in its last round."""
    lines = [
        {"eval/win_rate": gold, "eval/win_rate_low": gold - 0.1, "eval/win_rate_high": gold + 0.1, "eval/kl": kl}
        | {"eval/proxy_win_rate": proxy}
        for gold, proxy, kl in zip(GOLD, PROXY, FAR, strict=True)
    ]
    return make_run(lines, name="passed")


def places(chart: str) -> list[float]:
    return [float(x) for x in re.findall(r'class="hit" cx="([^"]+)"', chart)]


def test_both_win_rates_are_drawn_against_the_square_root_of_the_kl(passed: Path) -> None:
    chart = charts(passed)[TITLE]
    gold, proxy = places(chart)[:4], places(chart)[4:]
    assert gold == proxy == sorted(gold), "from left to right, however the rounds came"
    start, *others = gold
    assert [(at - start) / (gold[-1] - start) for at in others] == pytest.approx([1 / 3, 2 / 3, 1], abs=0.01)
    assert "evaluation scorer, round 2 at 1: 0.6 (0.5 to 0.7)" in chart
    assert "√KL" in chart and ">evaluation scorer<" in chart and ">training scorer<" in chart


def test_the_note_says_where_the_policy_passed_its_best(passed: Path, good_run: Path) -> None:
    said = "the win rate is greatest in round 1, 0.70 at √KL 2.00, and falls to 0.40 at 3.00"
    assert said in charts(passed)[TITLE]
    assert "greatest" not in charts(good_run)[TITLE]


def test_the_table_has_the_distance_of_each_round(passed: Path, tmp_path: Path) -> None:
    report.write_csv(passed, tmp_path / "csv")
    head, *lines = (tmp_path / "csv" / "over-optimisation.csv").read_text(encoding="utf-8").splitlines()
    assert head.split(",") == [
        "round",
        "√KL",
        *(f"evaluation scorer{end}" for end in ("", " low", " high")),
        "training scorer",
    ]
    assert [row.split(",")[:3] for row in lines] == [
        ["0", "0", "0.5"], ["1", "2", "0.7"], ["2", "1", "0.6"], ["3", "3", "0.4"],
    ]  # fmt: skip


def test_the_rows_of_the_command_are_nearest_first(passed: Path) -> None:
    assert [(row["round"], row["sqrt_kl"], row["proxy_win_rate"]) for row in rows(read(passed))] == [
        (0, 0, 0.5), (2, 1, 0.7), (1, 2, 0.8), (3, 3, 0.9),
    ]  # fmt: skip


def test_there_is_no_such_chart_if_training_uses_the_same_scorer_or_no_kl_is_known(
    passed: Path, make_run: MakeRun
) -> None:
    told(passed, CONFIG)
    assert TITLE not in charts(passed)
    unknown = make_run([{"eval/win_rate": 0.5}, {"eval/win_rate": 0.6, "eval/kl": float("nan")}], name="unknown")
    assert TITLE not in charts(unknown)
    alone = make_run([{}, {"eval/win_rate": 0.6, "eval/kl": 2.0}], name="alone")
    assert TITLE not in charts(alone), "one point is no curve"


def test_runs_are_compared_at_equal_distance(good_run: Path, passed: Path, make_run: MakeRun) -> None:
    bare = make_run([{}], name="bare")
    html = report.write_comparison([good_run, bare, passed]).read_text(encoding="utf-8")
    (label,) = re.findall(r'aria-label="(Win rate by distance: [^"]*)"', html)
    assert label == (
        "Win rate by distance: sandbox 0.5 in round 0, then 0.892 in round 4; "
        "passed 0.5 in round 0, then 0.4 in round 3"
    )
