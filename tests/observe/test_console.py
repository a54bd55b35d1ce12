"""The terminal: alive for those who watch, one line a round for those who read it later."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from rlhf_flow.observe.console import Console
from rlhf_flow.observe.summary_line import duration, line
from rlhf_flow.types import RoundRecord

MakeRecord = Callable[[int], RoundRecord]


def watched(out: StringIO, width: int = 80) -> Terminal:
    return Terminal(file=out, force_terminal=True, width=width, highlight=False, legacy_windows=False, _environ={})


def test_a_pipe_gets_one_line_a_round(tmp_path: Path, record: MakeRecord, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console.open(tmp_path, [], {"rounds": 2})
    for round in range(3):
        for done in range(11):
            console.stage(round, "sample", done, 10, "tokens")
        console.round(record(round))
    console.close()
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: a new run",
        "round 0/2 · the start · win rate 0.500 · KL 0.00 · 1 min 05 s",
        "round 1/2 · win rate 0.600 · KL 1.00 · 1 min 05 s",
        "round 2/2 · win rate 0.700 · KL 2.00 · 1 min 05 s",
    ]


def test_a_long_stage_has_one_line_in_a_pipe_and_a_short_one_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console, now = Console.open(tmp_path, [], {"rounds": 2}), [100.0]
    console.clock = lambda: now[0]
    for done in range(21):
        console.stage(1, "learn", done, 20, "steps", f"loss {1 / (done + 1):.4f}")
        now[0] += 4.0
    console.stage(1, "select", 0, 1, "rounds")
    console.stage(1, "select", 1, 1, "rounds")
    console.stage(2, "evaluate", 0, 1, "rounds")
    now[0] += 63.0
    console.stage(2, "evaluate", 1, 1, "rounds")
    console.stage(2, "score", 0, 0, "answers")
    now[0] += 63.0
    console.stage(2, "score", 0, 0, "answers")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "round 1/2 · learn 3/20 steps in 12 s · 0.25 steps/s · 1 min 08 s left · loss 0.2500",
        "round 2/2 · evaluate 1/1 rounds in 1 min 03 s",
        "round 2/2 · score 0/0 answers in 1 min 03 s",
    ]


def test_what_an_earlier_start_did_is_no_part_of_the_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console, now = Console.open(tmp_path, [], {}), [0.0]
    console.clock = lambda: now[0]
    console.stage(3, "sample", 900, 1000, "prompts")
    now[0] = 20.0
    console.stage(3, "sample", 910, 1000, "prompts")
    assert "sample 910/1,000 prompts in 20 s · 0.5 prompts/s · 3 min 00 s left" in capsys.readouterr().out


def test_a_resumed_run_says_where_it_goes_on(
    tmp_path: Path, record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    Console.open(tmp_path, [record(0), record(1)], {"rounds": 4}).close()
    assert capsys.readouterr().out == (f"{tmp_path}: resumes after round 1/4 · win rate 0.600 · KL 1.00 · 1 min 05 s\n")


def test_a_terminal_shows_stage_count_and_rate(tmp_path: Path, record: MakeRecord) -> None:
    out = StringIO()
    console = Console.open(tmp_path, [], {"rounds": 2}, terminal=watched(out, width=100))
    console.stage(1, "learn", 0, 2000, "pairs")
    console.stage(1, "learn", 500, 2000, "pairs")
    console.stage(1, "learn", 1000, 2000, "pairs", "loss 0.6931")
    console.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "round 1/2 learn" in shown
    assert "1,000/2,000" in shown
    assert re.search(r"[\d,.]+ pairs/s", shown)
    assert "loss 0.6931" in shown
    assert out.getvalue().endswith("\x1b[?25h"), "the cursor is back"


def test_the_bars_of_a_round_give_way_to_its_line(tmp_path: Path, record: MakeRecord) -> None:
    out = StringIO()
    console = Console.open(tmp_path, [], {"rounds": 2}, terminal=watched(out))
    console.stage(1, "learn", 5, 10, "pairs")
    console.stage(2, "sample", 5, 10, "tokens")  # looked ahead
    out.truncate(0)
    console.round(record(1))
    console.close()
    after = out.getvalue().partition("round 1/2 · win rate")[2]
    assert after
    assert "learn" not in after
    assert "sample" in after


def test_a_stage_of_no_work_is_no_error(tmp_path: Path, record: MakeRecord) -> None:
    console = Console.open(tmp_path, [], {}, terminal=watched(StringIO()))
    console.stage(1, "learn", 0, 0, "pairs")
    console.round(record(1))
    console.close()
    console.close()


def test_names_are_no_markup(tmp_path: Path) -> None:
    out = StringIO()
    console = Console.open(tmp_path, [], {}, terminal=watched(out))
    console.stage(1, "[red]x[/nope]", 1, 10, "pairs")
    console.close()
    assert "[red]x[/nope]" in out.getvalue()


def test_an_alarm_is_a_line_of_its_own(tmp_path: Path, record: MakeRecord, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console.open(tmp_path, [], {"rounds": 2})
    tripped = {"alarm/length_drift": 1, "eval/length_drift": 1.83}
    console.round(replace(record(1), metrics={**record(1).metrics, **tripped}))
    console.round(record(2))
    console.close()
    said = capsys.readouterr().out.splitlines()
    assert said[2:3] == ["alarm length_drift in round 1: answers are 1.83 times as long as the start's"]
    assert len(said) == 4


def test_what_was_not_measured_is_not_mentioned() -> None:
    assert line(3, None, {}) == "round 3"
    assert line(3, 4, {"eval/truncated": 0.0, "eval/reward": float("nan")}) == "round 3/4 · judge nan · cut 0.0%"
    both = {"eval/reward": 0.5, "eval/proxy": 1.25}
    assert line(3, 4, both) == "round 3/4 · judge 0.500 · proxy 1.250"
    gap = {"eval/proxy_gap": 0.1234, "eval/accuracy": 0.7}
    assert line(3, 4, gap) == "round 3/4 · held-out accuracy 0.700 · gap +0.123"
    whole = {"eval/win_rate": 0.7, "eval/win_rate_low": 0.65, "eval/win_rate_high": 0.75}
    assert line(1, 4, whole) == "round 1/4 · win rate 0.700 [0.650, 0.750]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (float("nan"), "nan s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
