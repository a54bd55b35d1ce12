"""A round without a pair: it is counted on the console, it is an alarm, and unchanged weights win nothing by chance."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from rlhf_flow.metrics.alarms import AlarmError, Alarms, raise_if_stopped, raised
from rlhf_flow.metrics.bucket_counts import pairs, reasons
from rlhf_flow.observe.console import Lines
from rlhf_flow.observe.settings import ObservedRun
from rlhf_flow.observe.summary_line import line
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.types import RoundRecord, Scored, Selection
from tests.stages.test_late_labels import Compared, People
from tests.support import toy

pytestmark = pytest.mark.slow

CUT = {
    "responses/sampled": 64,
    "responses/truncated": 63,
    "responses/no_pair": 1,
    "pairs/no_pair": 8,
    "train/steps": 0,
}


def metrics(root: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


# -- what is said -----------------------------------------------------------------------------------------------------


def test_pairs_are_counted_with_what_cost_the_others() -> None:
    assert line(1, 4, CUT, limit=64) == "round 1/4 · pairs 0 of 8 (63 answers cut at 64 tokens)"
    assert line(1, 4, CUT) == "round 1/4 · pairs 0 of 8 (63 answers cut)"
    some = {"pairs/used": 5, "pairs/used_tie": 1, "pairs/tie": 1, "pairs/abstained": 2, "pairs/low_margin": 1}
    assert line(1, 4, some) == "round 1/4 · pairs 6 of 10 (2 pairs without a verdict, 1 pair tied)"
    assert line(1, 4, {"pairs/used": 8}) == "round 1/4 · pairs 8 of 8"
    assert line(0, 4, {"eval/win_rate": 0.5}) == "round 0/4 · the start · win rate 0.500"


def test_late_pairs_count_where_they_are_learned_from() -> None:
    assert pairs({"pairs/overdue": 4, "late/pairs": 3}) == (3, 7)
    assert pairs({}) is None
    assert reasons({"pairs/my_bucket": 2}) == "2 pairs my bucket"


def test_the_console_knows_at_how_many_tokens_answers_are_cut(tmp_path: Path) -> None:
    config = {"rounds": 4, "sampler.draws.0.max_tokens": 48, "sampler.draws.1.max_tokens": 48, "scorer.max_tokens": 9}
    out = StringIO()
    console = Lines(ObservedRun(tmp_path, [], config), out)
    console.round(RoundRecord(1, "", {}, CUT, {}, {}))
    assert "pairs 0 of 8 (63 answers cut at 48 tokens)" in out.getvalue()


# -- what a run does --------------------------------------------------------------------------------------------------


def test_a_round_that_learned_nothing_ends_the_run(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=3, selector=toy.NothingUseful())
    assert len(made.ledger.records) == 2
    assert [alarm.name for alarm in raised(made.ledger.records[-1].metrics)] == ["no_pairs"]
    with pytest.raises(
        AlarmError, match=r"round 1 has no pair, so it learned nothing.*12 answers.*4 pairs tied.*Fix: "
    ):
        raise_if_stopped(made.ledger.records[-1], Alarms())


def test_cut_answers_are_answered_with_the_key_that_makes_room() -> None:
    stopped = RoundRecord(1, "", {}, {**CUT, "alarm/no_pairs": 1}, {}, {})
    with pytest.raises(AlarmError, match=r"of 64 answers \(63 answers cut\)\. Fix: a higher answers\.max_tokens"):
        raise_if_stopped(stopped, Alarms())


@pytest.mark.parametrize("chosen", ["warn", None])
def test_a_run_may_be_told_to_go_on_without_pairs(chosen: str | None, tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=2, selector=toy.NothingUseful(), alarms=Alarms(no_pairs=chosen))
    assert len(made.ledger.records) == 3
    assert bool(raised(made.ledger.records[1].metrics)) == (chosen == "warn")
    raise_if_stopped(made.ledger.records[-1], Alarms(no_pairs=chosen))


class Once(toy.BestAndWorst):
    """Finds pairs in the first round alone."""

    def select(self, scored: Scored) -> Selection:
        return (super() if scored.rollouts.round == 1 else toy.NothingUseful()).select(scored)


def test_a_round_that_still_learns_from_earlier_pairs_only_warns(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=2, selector=Once())  # the memory has two rounds
    assert made.ledger.records[2].metrics["train/steps"]
    assert [alarm.name for alarm in raised(made.ledger.records[2].metrics)] == ["no_pairs"]
    raise_if_stopped(made.ledger.records[2], Alarms())


def test_labels_that_are_still_to_come_are_waited_for(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=3, scorer=People(1), selector=Compared())
    assert not any(raised(record.metrics) for record in made.ledger.records)


def test_answers_that_are_all_cut_are_the_cause_that_is_told(tmp_path: Path) -> None:
    class Cutting(toy.Engine):
        def generate(self, *asked: object, **how: object) -> object:
            drawn = super().generate(*asked, **how)  # type: ignore[arg-type]
            cut = tuple(tuple(replace(one, truncated=True) for one in group) for group in drawn.responses)
            return replace(drawn, responses=cut)

    made = toy.run(
        tmp_path, rounds=2, engine=Cutting(), selector=OnlyPair(), sampler=toy.Sampler(toy.SamplingParams(n=2))
    )
    with pytest.raises(AlarmError, match=r"of 8 answers \(8 answers cut\)"):
        raise_if_stopped(made.ledger.records[-1], Alarms())


def test_the_choice_is_checked() -> None:
    with pytest.raises(ValueError, match=r"alarms\.no_pairs must be stop, warn or null, got 'shout'"):
        Alarms(no_pairs="shout")


# -- unchanged weights ------------------------------------------------------------------------------------------------


def test_unchanged_weights_compare_as_one_half(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=3, selector=toy.NothingUseful(), alarms=Alarms(no_pairs="warn"))
    for told in metrics(tmp_path)[1:]:
        assert [told[f"eval/win_rate{end}"] for end in ("", "_low", "_high")] == [0.5, 0.5, 0.5]
        assert told["eval/kl"] == 0


def test_changed_weights_answer_anew(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=1)
    ids = made.ledger.table(1, "evaluate", "evaluation/answers").read()["response"].to_pylist()
    assert all(id.startswith("1/") for id in ids)
