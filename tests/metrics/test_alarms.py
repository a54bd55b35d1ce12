"""Alarms: when they trip, when they do not, and what a run does then."""

from __future__ import annotations

import json
import math
from pathlib import Path

import alarms as planted
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.cli.main import main
from rlhf_flow.metrics.alarms import (
    THRESHOLDS,
    AlarmError,
    Alarms,
    of_judge,
    raise_if_stopped,
    raised,
    tripped,
)
from rlhf_flow.metrics.stats import mean_with_interval
from rlhf_flow.metrics.win_rate import win_rate
from rlhf_flow.system.machine import gpus
from rlhf_flow.types import RoundRecord
from tests.support import toy

START = {
    "eval/win_rate_drop": 0.0,
    "eval/win_rate_drop_low": -0.1,
    "eval/proxy_gap_low": 0.0,
    "eval/length_drift": 1.0,
    "eval/length_drift_low": 1.0,
    "eval/length_drift_high": 1.0,
    "eval/topk_entropy": 1.0,
    "eval/topk_mass": 0.9,
    "eval/truncated": 0.1,
    "eval/distinct": 1.0,
    "eval/repetition": 0.05,
    "eval/kl": 0.0,
    "eval/length": 30.0,
}
TELLING = {  # of each alarm, what does not trip it yet and what does
    "proxy_gap": ({"eval/proxy_gap_low": 0.1}, {"eval/proxy_gap_low": 0.11}),
    "length_drift": (
        {"eval/length_drift": 1.5, "eval/length_drift_low": 1.01},
        {"eval/length_drift": 1.51, "eval/length_drift_low": 1.01},
    ),
    "win_rate_drop": (
        {"eval/win_rate_drop": 0.05, "eval/win_rate_drop_low": 0.01},
        {"eval/win_rate_drop": 0.06, "eval/win_rate_drop_low": 0.01},
    ),
    "entropy_fall": ({"eval/topk_entropy": 0.5}, {"eval/topk_entropy": 0.49}),
    "mass_fall": ({"eval/topk_mass": 0.86}, {"eval/topk_mass": 0.84}),
    "truncated_rise": ({"eval/truncated": 0.29}, {"eval/truncated": 0.31}),
    "distinct_fall": ({"eval/distinct": 0.5}, {"eval/distinct": 0.49}),
    "repetition_rise": ({"eval/repetition": 0.24}, {"eval/repetition": 0.26}),
    "saturated": (
        {"eval/win_rate": 0.97, "eval/win_rate_low": 0.95, "eval/kl": 9.0},
        {"eval/win_rate": 1.0, "eval/win_rate_low": 1.0, "eval/kl": 9.0},
    ),
    "kl": ({"eval/kl": 15.0}, {"eval/kl": 15.1}),
}
measures = st.dictionaries(st.sampled_from(sorted(START)), st.floats(0, 3) | st.just(math.nan))
histories = st.lists(measures, max_size=6)
limits = st.none() | st.floats(1, 3)


def names(history: list[dict[str, float]], thresholds: Alarms | None = None) -> list[str]:
    return [alarm.name for alarm in tripped(history, thresholds or Alarms())]


def record(round: int = 1, **metrics: float) -> RoundRecord:
    return RoundRecord(round, "", {}, {f"alarm/{name}": value for name, value in metrics.items()}, {}, {})


# -- what trips -------------------------------------------------------------------------------------------------------


def test_every_threshold_has_its_alarm() -> None:
    assert sorted(TELLING) == sorted(THRESHOLDS)


@pytest.mark.parametrize("name", TELLING)
def test_an_alarm_trips_beyond_its_threshold_and_nothing_else_does(name: str) -> None:
    quiet, loud = TELLING[name]
    assert names([START, START | quiet]) == []
    assert names([START, START | loud]) == [name]
    assert names([START, START | loud], Alarms(**{name: None})) == []


def test_answers_that_become_too_short_are_a_drift_too() -> None:
    short = START | {"eval/length_drift": 0.66, "eval/length_drift_high": 0.99}
    assert names([START, short]) == ["length_drift"]
    assert names([START, short | {"eval/length_drift": 0.67}]) == []


@pytest.mark.parametrize("drift", [0.5, 2.0])
def test_a_drift_that_may_be_chance_trips_nothing(drift: float) -> None:
    assert names([START, START | {"eval/length_drift": drift, "eval/length_drift_high": 1.0}]) == []


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("entropy_fall", {"eval/topk_entropy": 1.1}),
        ("mass_fall", {"eval/topk_mass": 0.93}),
    ],
)
def test_a_fall_is_measured_from_the_best_round_so_far(name: str, best: dict[str, float]) -> None:
    quiet = START | TELLING[name][0]
    assert names([START, START, quiet]) == []
    assert names([START, START | best, START, quiet]) == [name]


def test_a_win_rate_that_fell_by_chance_is_silent() -> None:
    assert names([START, START | {"eval/win_rate_drop": 0.3, "eval/win_rate_drop_low": -0.01}]) == []


@pytest.mark.parametrize(
    ("name", "key", "wide"),
    [
        ("mass_fall", "topk_mass", {"eval/topk_mass": 0.84, "eval/topk_mass_high": 0.86}),
        ("entropy_fall", "topk_entropy", {"eval/topk_entropy": 0.49, "eval/topk_entropy_high": 0.51}),
        ("truncated_rise", "truncated", {"eval/truncated": 0.31, "eval/truncated_low": 0.29}),
        ("repetition_rise", "repetition", {"eval/repetition": 0.26, "eval/repetition_low": 0.24}),
        ("kl", "kl", {"eval/kl": 15.1, "eval/kl_low": 14.9}),
    ],
)
def test_the_whole_interval_must_be_beyond_the_threshold(name: str, key: str, wide: dict[str, float]) -> None:
    assert names([START, START | wide]) == []
    assert names([START, START | {f"eval/{key}": wide[f"eval/{key}"]}]) == [name]


@pytest.mark.parametrize(("start", "tripping"), [(0.89, ["truncated_rise"]), (0.79, []), (0.81, ["truncated_rise"])])
def test_a_start_whose_answers_are_nearly_all_cut_leaves_no_room_to_rise_and_trips_at_once(
    start: float, tripping: list[str]
) -> None:
    assert names([START | {"eval/truncated": start}]) == tripping
    assert names([START | {"eval/truncated": start}] * 2) == tripping


def test_a_reward_that_likes_one_phrase_again_and_again_is_noticed() -> None:
    """28 nats in 48 tokens, a win rate of 1 (that is known without an interval) and answers that differ by a word."""
    hacked = {"eval/kl": 28.0, "eval/length": 48.0, "eval/repetition": 0.8, "eval/win_rate": 1.0}
    assert names([START, START | hacked]) == ["repetition_rise", "saturated", "kl"]


def saturated(n: int, wins: int, kl: float = 20.0) -> dict[str, float]:
    """Answers of 48 tokens; their distance differs by prompt."""
    far = mean_with_interval("eval/kl", kl + np.linspace(-4, 4, n))
    return START | far | {"eval/length": 48.0} | win_rate("eval/win_rate", (np.arange(n) < wins).astype(float))


def test_a_win_rate_that_stays_near_one_far_from_the_start_rings() -> None:
    """In three evaluations in a row, of rounds that were evaluated; of many prompts at once."""
    for n in (16, 34, 64):
        hacked = saturated(n, n)
        assert "saturated" not in names([START, hacked, hacked])
        assert "saturated" in names([START, hacked, hacked, hacked])
        assert "saturated" in names([hacked, hacked, {"train/loss": 0.1}, hacked])
        for before in (saturated(n, n, kl=5.0), saturated(n, n - 2)):
            assert "saturated" not in names([hacked, before, hacked])
            assert "saturated" not in names([hacked, hacked, before])
    assert "saturated" in names([START, saturated(128, 128)])
    assert "saturated" not in names([START, saturated(64, 64)])


@pytest.mark.parametrize("n", [16, 24, 34, 64, 128])
def test_a_win_rate_of_one_very_far_from_the_start_rings_at_once(n: int) -> None:
    """28 nats in 48 tokens, by the sixth round of a run that exploits its scorer."""
    assert "saturated" in names([START, saturated(n, n, kl=28.0)])
    assert "saturated" not in names([START, saturated(n, round(0.87 * n), kl=28.0)])


def test_a_win_rate_of_one_on_fewer_than_16_prompts_may_be_chance() -> None:
    assert "saturated" not in names([saturated(15, 15)] * 3)


@pytest.mark.parametrize(("kl", "length"), [(4.9, 29.6), (9.8, 30.0), (2.1, 3.0), (40.0, 500.0)])
def test_the_distance_of_a_run_that_goes_well_is_silent(kl: float, length: float) -> None:
    assert names([START, START | {"eval/kl": kl, "eval/length": length}]) == []


@pytest.mark.parametrize(("name", "better"), [("truncated_rise", 0.0), ("distinct_fall", 2.0)])
def test_others_are_measured_from_the_start(name: str, better: float) -> None:
    key, quiet = next(iter(TELLING[name][0])), START | TELLING[name][0]
    assert names([START, START | {key: better}, quiet]) == []
    assert names([START | {key: better}, quiet]) == [name]


@given(histories)
def test_without_thresholds_nothing_trips(history: list[dict[str, float]]) -> None:
    assert tripped(history, Alarms(**dict.fromkeys(THRESHOLDS))) == []


@given(histories, st.fixed_dictionaries(dict.fromkeys(THRESHOLDS, limits)))
def test_what_was_not_measured_changes_nothing(
    history: list[dict[str, float]], thresholds: dict[str, float | None]
) -> None:
    alarms = Alarms(**thresholds)
    absent = [{key: value for key, value in metrics.items() if not math.isnan(value)} for metrics in history]
    assert names(absent, alarms) == names(history, alarms)
    assert names([{}, *history], alarms) == names(history, alarms)
    assert names([*history, {"train/loss": 1.0}], alarms) == []


@given(histories, st.sampled_from(THRESHOLDS), st.floats(1, 3), st.floats(0, 2))
def test_a_looser_threshold_trips_less(history: list[dict[str, float]], name: str, limit: float, more: float) -> None:
    strict, loose = Alarms(**{name: limit}), Alarms(**{name: limit + more})
    assert set(names(history, loose)) <= set(names(history, strict))


@given(histories)
def test_each_alarm_is_read_back_from_the_metrics_with_its_reason(history: list[dict[str, float]]) -> None:
    if history:
        alarms = tripped(history, Alarms())
        assert raised(history[-1] | {f"alarm/{alarm.name}": 1 for alarm in alarms}) == alarms


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("action", "shout", r"alarms.action must be warn or stop, got 'shout'"),
        ("length_drift", 0.9, r"alarms.length_drift must be a number >= 1, got 0.9. Fix: null"),
        ("proxy_gap", -0.1, r"alarms.proxy_gap must be a number >= 0, got -0.1"),
        ("mass_fall", math.nan, r"alarms.mass_fall must be a number"),
    ],
)
def test_a_mistake_is_named(key: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Alarms(**{key: value})


# -- what it is for ---------------------------------------------------------------------------------------------------
# The same for ten seeds each: scripts/proofs/alarms.py.


@pytest.mark.slow
def test_a_judge_that_is_pleased_by_length_trips_an_alarm_and_the_run_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = planted.overrides("hackable", tmp_path, seed=10)
    assert main(["run", *overrides, "alarms.action=stop"]) == 1
    told = capsys.readouterr()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert planted.NOTICED & {alarm.name for alarm in raised(lines[-1])}
    last = lines[-1]["round"]
    assert 0 < last < planted.ROUNDS
    assert f"an alarm stopped the run after round {last}" in told.err and "alarms.action=warn" in told.err
    assert "Traceback" not in told.err
    assert f"in round {last}: " in told.out and "report: " in told.out
    assert (tmp_path / f"run/rounds/{last:05d}/policy/config.json").exists()
    assert main(["run", *overrides, "alarms.action=warn", f"rounds={last + 1}"]) == 0
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == last + 2
    starts = json.loads((tmp_path / "run/manifest.json").read_text())["starts"]
    assert [start["round"] for start in starts] == [0, last + 1], "the round with which each start goes on"
    assert all(start["started"][:2] == "20" and start["cores"] >= 1 and start["gpus"] == gpus() for start in starts)
    assert starts[0]["choices"]["algorithm"] == "online_dpo"
    page = (tmp_path / "run/report.html").read_text()
    assert f"round {last + 1}</b> the run was started again" in page and str(tmp_path) not in page


@pytest.mark.soak
@pytest.mark.slow
def test_a_judge_that_only_errs_trips_none(tmp_path: Path) -> None:
    metrics = planted.run(tmp_path, planted.overrides("clean", tmp_path, seed=10))
    assert metrics[-1]["eval/win_rate_low"] > 0.5
    assert planted.alarms_of(metrics) == {}


# -- what a run does --------------------------------------------------------------------------------------------------


def test_a_round_that_trips_is_committed_with_its_policy_and_the_run_ends_there(tmp_path: Path) -> None:
    stopping = Alarms(action="stop", distinct_fall=0.0)
    toy.run(tmp_path, alarms=stopping, rounds=8, every=100)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]["round"]
    assert 0 < last < 8
    assert [line["round"] for line in lines if "alarm/distinct_fall" in line] == [last]
    assert (tmp_path / f"rounds/{last:05d}/policy/logits.json").exists()
    assert not (tmp_path / "final.json").exists()


@pytest.mark.slow
def test_the_same_command_goes_on_and_ends_in_the_same_weights(tmp_path: Path) -> None:
    stopping = Alarms(action="stop", distinct_fall=0.0)
    straight = toy.run(tmp_path / "straight", rounds=3)
    for _ in range(4):
        stopped = toy.run(tmp_path / "stopped", rounds=3, alarms=stopping)
    assert any("alarm/distinct_fall" in one.metrics for one in stopped.ledger.records[:-1])
    assert [one.policy for one in stopped.ledger.records] == [one.policy for one in straight.ledger.records]
    assert (tmp_path / "stopped/final.json").exists()


def test_a_warning_stops_nothing(tmp_path: Path) -> None:
    records = toy.run(tmp_path, alarms=Alarms(distinct_fall=0.0), rounds=3).ledger.records
    assert len(records) == 4
    assert any("alarm/distinct_fall" in one.metrics for one in records[:-1])


def test_a_stop_says_what_tripped_and_how_to_go_on() -> None:
    raise_if_stopped(record(truncated_rise=1), Alarms())
    raise_if_stopped(record(), Alarms(action="stop"))
    tripping = RoundRecord(3, "", {}, {"alarm/truncated_rise": 1, "eval/truncated": 0.4}, {}, {})
    with pytest.raises(AlarmError, match=r"after round 3, .*alarms.truncated_rise: 40.0%.*alarms.action=warn"):
        raise_if_stopped(tripping, Alarms(action="stop"))


# -- judges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["judge", "eval/judge"])
def test_a_judge_whose_verdicts_turn_with_the_order_is_an_alarm(prefix: str) -> None:
    """72 of 72 comparisons, each with a mean of 1/2: a win rate near 0.5 that means nothing."""
    metrics = {f"{prefix}/asked": 72, f"{prefix}/inconsistent": 72, "eval/win_rate": 0.496}
    (alarm,) = of_judge(metrics, Alarms())
    assert alarm.name == "inconsistent_judge" and "100% of the judge's verdicts" in alarm.reason
    assert raised(metrics | {"alarm/inconsistent_judge": 1}) == [alarm]
    assert of_judge(metrics | {f"{prefix}/inconsistent": 36}, Alarms()) == []
    assert of_judge(metrics, Alarms(inconsistent_judge=None)) == []
    assert of_judge({f"{prefix}/asked": 7, f"{prefix}/inconsistent": 7}, Alarms()) == []
