"""The terminal without a screen: one line a round for pipes and files, warnings alone, or events in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from rlhf_flow.observe.console import JsonEvents, Lines, Warnings
from rlhf_flow.observe.settings import ObservedRun
from rlhf_flow.observe.stage_clock import StageClock
from rlhf_flow.observe.summary_line import duration, line
from rlhf_flow.system.output import tell
from rlhf_flow.types import RoundRecord

MakeRecord = Callable[[int], RoundRecord]


def lines(
    run_dir: Path, records: list[RoundRecord], config: dict[str, object], clock: Callable[[], float] | None = None
) -> tuple[Lines, StringIO]:
    out = StringIO()
    stages = StageClock() if clock is None else StageClock(clock)
    return Lines(ObservedRun(run_dir, records, config), out, stages), out


def test_a_pipe_gets_one_line_a_round(tmp_path: Path, record: MakeRecord) -> None:
    console, out = lines(tmp_path, [], {"rounds": 2})
    for round in range(3):
        for done in range(11):
            console.stage(round, "sample", done, 10, "tokens")
        console.round(record(round))
    console.close()
    assert out.getvalue().splitlines() == [
        f"{tmp_path}: a new run",
        "round 0/2 · the start · win rate 0.500 · KL 0.00 · 1 min 05 s",
        "round 1/2 · win rate 0.600 · KL 1.00 · 1 min 05 s",
        "round 2/2 · win rate 0.700 · KL 2.00 · 1 min 05 s",
    ]


def test_a_long_stage_has_one_line_in_a_pipe_and_a_short_one_none(tmp_path: Path) -> None:
    now = [100.0]
    console, out = lines(tmp_path, [], {"rounds": 2}, lambda: now[0])
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
    assert out.getvalue().splitlines()[1:] == [
        "round 1/2 · learn 3/20 steps in 12 s · 0.25 steps/s · 1 min 08 s left · loss 0.2500",
        "round 2/2 · evaluate 1/1 rounds in 1 min 03 s",
        "round 2/2 · score 0/0 answers in 1 min 03 s",
    ]


def test_a_stage_that_is_silent_for_a_minute_is_named_then_twice_as_seldom(tmp_path: Path, record: MakeRecord) -> None:
    now = [0.0]
    console, out = lines(tmp_path, [], {"rounds": 2}, lambda: now[0])
    console.stage(0, "evaluate", 0, 4, "steps")
    for now[0] in range(10, 500, 10):
        console.break_silence()
    console.round(record(0))  # stages of a finished round are not named
    now[0] += 1000
    console.break_silence()
    console.close()
    assert out.getvalue().splitlines()[1:-1] == [
        f"round 0/2 · evaluate 0/4 steps in {time}" for time in ("1 min 00 s", "3 min 00 s", "7 min 00 s")
    ]


def test_what_an_earlier_start_did_is_no_part_of_the_rate(tmp_path: Path) -> None:
    now = [0.0]
    console, out = lines(tmp_path, [], {}, lambda: now[0])
    console.stage(3, "sample", 900, 1000, "prompts")
    now[0] = 20.0
    console.stage(3, "sample", 910, 1000, "prompts")
    assert "sample 910/1,000 prompts in 20 s · 0.5 prompts/s · 3 min 00 s left" in out.getvalue()


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path, record: MakeRecord) -> None:
    _, out = lines(tmp_path, [record(0), record(1)], {"rounds": 4})
    assert out.getvalue() == (f"{tmp_path}: resumes after round 1/4 · win rate 0.600 · KL 1.00 · 1 min 05 s\n")


def test_an_alarm_is_a_line_of_its_own(tmp_path: Path, record: MakeRecord) -> None:
    console, out = lines(tmp_path, [], {"rounds": 2})
    tripped = {"alarm/length_drift": 1, "eval/length_drift": 1.83}
    console.round(replace(record(1), metrics={**record(1).metrics, **tripped}))
    console.round(record(2))
    console.close()
    said = out.getvalue().splitlines()
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
    assert line(1, 4, whole) == "round 1/4 · win rate 0.700 ± 0.050"


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


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ((0.7, 0.5, 0.9), "win rate 0.70 ± 0.20 (cannot be told from 1/2)"),
        ((0.97, 0.81, 1.0), "win rate 0.970 [0.810, 1.000]"),
        ((0.712, 0.66, 0.764), "win rate 0.712 ± 0.052"),
        ((0.5, 0.5, 0.5), "win rate 0.500"),  # the weights are the start's: nothing was measured
    ],
)
def test_a_win_rate_has_the_digits_of_its_interval(metrics: tuple[float, float, float], shown: str) -> None:
    keys = ("eval/win_rate", "eval/win_rate_low", "eval/win_rate_high")
    assert line(1, 4, dict(zip(keys, metrics, strict=True))) == f"round 1/4 · {shown}"


def test_a_round_that_chance_explains_is_said_to_be_like_the_last_one() -> None:
    keys = ("eval/win_rate", "eval/win_rate_low", "eval/win_rate_high", "eval/win_rate_change_low")
    metrics = {**dict(zip(keys, (0.7, 0.6, 0.8, -0.1), strict=True)), "eval/win_rate_change_high": 0.1}
    assert line(2, 4, metrics).endswith("(cannot be told from the last round)")


def test_most_answers_cut_is_a_warning_with_the_fix(tmp_path: Path, record: MakeRecord) -> None:
    out = StringIO()
    console = Warnings(ObservedRun(tmp_path, [], {"sampler.draws.0.max_tokens": 48}), out)
    console.stage(1, "sample", 1, 2, "prompts")
    console.round(record(0))
    assert out.getvalue() == ""
    console.round(replace(record(1), metrics={"responses/sampled": 64, "responses/truncated": 40}))
    assert out.getvalue() == (
        "warning: 40 of 64 answers of round 1 are cut at 48 tokens, and no pair uses them. "
        "Fix: a higher answers.max_tokens in a new run_dir.\n"
    )


def test_events_are_one_json_object_a_line(tmp_path: Path, record: MakeRecord) -> None:
    out = StringIO()
    console = JsonEvents(ObservedRun(tmp_path, [record(0)], {"rounds": 2}), out)
    console.stage(1, "learn", 1, 2, "steps", "loss 0.5")
    tell("waiting for people")
    console.round(replace(record(1), metrics={"eval/kl": float("nan"), "alarm/kl": 1}))
    console.close()
    events = [json.loads(text) for text in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["start", "stage", "message", "round", "warning"]
    assert events[0] == {"event": "start", "run_dir": str(tmp_path), "rounds": 2, "resumed_after": 0}
    assert events[2]["text"] == "waiting for people"
    assert events[3]["metrics"] == {"eval/kl": None, "alarm/kl": 1}
