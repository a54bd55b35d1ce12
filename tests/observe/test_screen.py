"""The live view of a run: what it shows, and that it fits the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from rlhf_flow.observe.samples import Samples
from rlhf_flow.observe.screen import Screen
from rlhf_flow.observe.settings import ObservedRun
from rlhf_flow.observe.sparkline import sparkline
from rlhf_flow.observe.stage_clock import StageClock
from rlhf_flow.system.output import tell
from rlhf_flow.types import RoundRecord
from tests.observe.test_samples import evaluated

MakeRecord = Callable[[int], RoundRecord]


def opened(run: ObservedRun, width: int = 80, height: int = 30) -> Screen:
    out = StringIO()
    terminal = Console(
        file=out, force_terminal=True, width=width, height=height, legacy_windows=False, highlight=False, _environ={}
    )
    return Screen.on(run, terminal)


def text(screen: Screen) -> list[str]:
    """The lines of the view as it is now, without styles."""
    page = StringIO()
    Console(file=page, width=screen.terminal.width, color_system=None).print(screen.view())
    return [line.rstrip() for line in page.getvalue().splitlines()]


def records(made: MakeRecord, last: int) -> list[RoundRecord]:
    return [made(round) for round in range(last + 1)]


def test_rounds_are_a_table_with_trends(tmp_path: Path, record: MakeRecord) -> None:
    screen = opened(ObservedRun(tmp_path, records(record, 1), {"rounds": 4}))
    screen.round(record(2))
    shown = text(screen)
    screen.close()
    assert shown[0].endswith("2 of 4 rounds · about 2 min 10 s left")
    assert shown[1].split() == ["round", "win", "rate", "KL", "time"]
    assert [line.split()[:3] for line in shown[2:5]] == [[str(at), f"0.{5 + at}00", f"{at}.00"] for at in range(3)]
    assert shown[5].split()[:2] == ["trend", "▁▅█"]


def test_a_stage_has_a_bar_its_rate_and_the_time_left_until_its_round_ends(tmp_path: Path, record: MakeRecord) -> None:
    now = [0.0]
    screen = opened(ObservedRun(tmp_path, [], {}), width=100)
    screen.stages = StageClock(lambda: now[0])
    screen.stage(1, "learn", 0, 2000, "pairs")
    now[0] = 10.0
    screen.stage(1, "learn", 500, 2000, "pairs", "loss 0.6931")
    screen.stage(2, "sample", 0, 10, "prompts")  # ahead of its round
    now[0] = 15.0
    learning, sampling = [line for line in text(screen) if line.startswith("round ")]
    assert learning == "round 1 learn    ━━━━────────────  500/2,000 pairs · 33.3 pairs/s · 45 s left · loss 0.6931"
    assert sampling == "round 2 sample   ────────────────  0/10 prompts · 5 s"
    screen.round(record(1))
    assert [line[:14] for line in text(screen) if line.startswith("round ") and "─" in line] == ["round 2 sample"]
    screen.close()
    screen.close()


def test_the_last_samples_are_shown_as_far_as_there_is_room(tmp_path: Path, record: MakeRecord) -> None:
    evaluated(tmp_path, 1, {"first": 9.0, "second": 5.0, "third": 2.0})
    run = ObservedRun(tmp_path, records(record, 1), {}, samples=Samples(tmp_path, 3))
    high, low = opened(run, height=40), opened(run, height=13)
    assert [line for line in text(high) if line in ("first", "second", "third")] == ["first", "second", "third"]
    assert "  before  s" in text(high)
    assert "  after   first9.0" in text(high)
    assert "third" not in text(low)
    for screen in (high, low):
        screen.close()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 50), (60, 12)])
def test_the_view_fits_the_window(tmp_path: Path, record: MakeRecord, width: int, height: int) -> None:
    evaluated(tmp_path, 1, {f"{at} {'long ' * 90}": float(at) for at in range(9)})
    metrics = {
        **{f"eval/{name}": 0.123 for name in ("reward", "proxy", "kl", "length", "truncated", "distinct", "win_rate")},
        "train/loss": 0.5,
        "train/accuracy": 0.5,
        "pairs/used": 1000,
        "pairs/tie": 24,
        "seconds/round": 3700.0,
        "eval/win_rate_low": 0.01,
        "eval/win_rate_high": 0.3,
    }
    many = [replace(record(round), metrics=metrics) for round in range(40)]
    screen = opened(ObservedRun(tmp_path, many, {"rounds": 50}, samples=Samples(tmp_path, 5)), width, height)
    screen.stage(40, "learn", 1, 2000, "pairs", "a long detail " * 20)
    shown = text(screen)
    screen.close()
    assert max(map(len, shown)) <= width
    assert len(shown) < height
    assert any(line.lstrip().startswith("39 ") for line in shown)
    assert any("learn" in line for line in shown)


def test_cost_noise_alarms_and_messages_are_told(tmp_path: Path, record: MakeRecord) -> None:
    judge = {"judge/asked": 72, "judge/verdicts": 70, "judge/calls": 144, "judge/cost_micro": 150_000}
    wins = {"eval/win_rate": 0.55, "eval/win_rate_low": 0.4, "eval/win_rate_high": 0.7}
    screen = opened(ObservedRun(tmp_path, [], {}), width=140)
    screen.round(replace(record(0), metrics={f"eval/{key}": value for key, value in judge.items()}))
    screen.round(replace(record(1), metrics={**judge, **wins, "alarm/length_drift": 1, "eval/length_drift": 1.83}))
    tell("waiting for \x1b[31mpeople")
    shown = text(screen)
    screen.close()
    assert "judge so far: verdicts 140/144, 288 calls, cost 0.30" in shown
    assert "round 1: win rate (cannot be told from 1/2)" in shown
    assert "alarm length_drift in round 1: answers are 1.83 times as long as the start's" in shown
    assert "waiting for ␛[31mpeople" in shown


def test_names_are_no_markup_and_no_work_is_no_error(tmp_path: Path) -> None:
    screen = opened(ObservedRun(tmp_path, [], {}))
    screen.stage(1, "[red]x[/nope]", 0, 10, "pairs")
    screen.stage(1, "score", 0, 0, "pairs")
    assert any("[red]x[/nope]" in line for line in text(screen))
    screen.close()


def test_the_last_view_stays_and_the_cursor_is_back(tmp_path: Path, record: MakeRecord) -> None:
    screen = opened(ObservedRun(tmp_path, [record(0)], {}))
    screen.stage(1, "learn", 5, 10, "pairs")
    screen.close()
    written = screen.terminal.file
    assert isinstance(written, StringIO)
    assert written.getvalue().rstrip("\n").endswith("\x1b[?25h")
    assert "learn" in written.getvalue().rpartition("trend")[2]


def test_a_sparkline_spans_its_values() -> None:
    assert sparkline([0.0, 1.0, None, 2.0], 12) == "▁▅ █"
    assert sparkline([9.0, 0.0, 1.0], 2) == "▁█"
    assert sparkline([3.0, 3.0], 12) == "▄▄"
    assert sparkline([3.0, float("nan")], 12) == ""
