"""A plan names only versions that exist when its round begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.protocols import Schedule
from rlhf_flow.schedule import (
    PARTS,
    Averaged,
    EveryK,
    Extrapolated,
    FastAndSlow,
    Fixed,
    HalfSteps,
    History,
    Lagged,
    Versions,
)
from rlhf_flow.types import RoundPlan, RoundRecord

WORDS = st.one_of(st.sampled_from(["start", "last"]), st.integers(1, 20).map("every_{}".format))
VERSIONS = st.builds(Versions, init=WORDS, policy=WORDS, reference_sampler=WORDS, reference=WORDS, previous=WORDS)
HALVES = st.sampled_from(["start", "last"]).map(HalfSteps)
SCHEDULES = st.one_of(st.just(Fixed()), st.integers(1, 20).map(EveryK), HALVES, st.just(FastAndSlow()), VERSIONS)


def plans(schedule: Schedule, rounds: int) -> list[RoundPlan]:
    return [schedule.at(round, ()) for round in range(1, rounds + 1)]


@given(schedule=SCHEDULES, round=st.integers(1, 200))
def test_every_version_is_older_than_the_round(schedule: Schedule, round: int) -> None:
    plan = schedule.at(round, ())
    assert plan.round == round
    assert all(0 <= version < round for version in (plan.init, *plan.samplers.values(), *plan.anchors.values()))


@given(schedule=SCHEDULES, round=st.integers(1, 200))
def test_a_plan_is_a_function_of_the_round_with_a_version_for_every_role(schedule: Schedule, round: int) -> None:
    plan = schedule.at(round, ())
    assert plan == schedule.at(round, ())
    assert plan.samplers.keys() >= {"policy", "reference"}
    assert plan.anchors.keys() == {"reference", "sibling" if isinstance(schedule, FastAndSlow) else "previous"}


@given(schedule=SCHEDULES, round=st.integers(1, 200))
def test_what_nobody_would_use_is_published_under_another_name(schedule: Schedule, round: int) -> None:
    plan = schedule.at(round, ())
    assert plan.evaluated == (plan.publish_as == "policy")


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"half_steps", "fast_and_slow"}))
def test_most_schedules_take_any_number_of_rounds(name: str) -> None:
    for rounds in (1, 2, 3):
        PARTS[name]().check(rounds)


# -- fixed, every_k ----------------------------------------------------------------------------------------------------


def test_fixed_goes_on_from_the_round_before_and_keeps_the_start_as_reference() -> None:
    assert Fixed().at(3, ()) == RoundPlan(
        3, init=2, samplers={"policy": 2, "reference": 0}, anchors={"reference": 0, "previous": 2}
    )


def test_every_k_renews_the_reference_after_each_k_rounds() -> None:
    for plan, expected in zip(plans(EveryK(2), 6), [0, 0, 2, 2, 4, 4], strict=True):
        assert plan.anchors == {"reference": expected, "previous": plan.round - 1}
        assert plan.samplers == {"reference": expected, "policy": plan.round - 1}


def test_every_1_has_the_round_before_as_reference() -> None:
    assert [plan.anchors["reference"] for plan in plans(EveryK(1), 3)] == [0, 1, 2]


@given(k=st.integers(1, 20), round=st.integers(1, 200))
def test_the_reference_is_the_newest_multiple_of_k(k: int, round: int) -> None:
    reference = EveryK(k).at(round, ()).anchors["reference"]
    assert reference % k == 0
    assert reference + k >= round


def test_a_reference_cannot_be_renewed_every_0_rounds() -> None:
    with pytest.raises(ValueError, match=r"schedule\.k must be >= 1, got 0"):
        EveryK(0)


# -- half_steps --------------------------------------------------------------------------------------------------------


def test_a_full_step_starts_where_its_half_step_started_and_answers_with_the_half() -> None:
    half, full = plans(HalfSteps(), 4)[2:]
    assert half == RoundPlan(
        3,
        init=2,
        samplers={"policy": 2, "reference": 0, "previous": 2},
        anchors={"reference": 0, "previous": 2},
        publish_as="half",
        evaluated=False,
    )
    samplers = {"policy": 3, "reference": 0, "previous": 2}
    assert full == RoundPlan(4, init=2, samplers=samplers, anchors={"reference": 0, "previous": 2})


def test_the_last_full_policy_may_be_the_reference() -> None:
    assert [plan.anchors["reference"] for plan in plans(HalfSteps(reference="last"), 6)] == [0, 0, 2, 2, 4, 4]
    with pytest.raises(ValueError, match=r"schedule\.reference must be start or last, got 'half'"):
        HalfSteps(reference="half")


@given(step=st.integers(1, 100))
def test_full_policies_follow_one_another_and_halves_lead_nowhere(step: int) -> None:
    half, full = (HalfSteps().at(round, ()) for round in (2 * step - 1, 2 * step))
    assert (half.publish_as, full.publish_as) == ("half", "policy")
    assert half.init == full.init == half.anchors["previous"] == full.anchors["previous"] == 2 * step - 2
    assert full.samplers["policy"] == half.round


def test_a_fast_and_a_slow_policy_are_trained_in_turns_and_each_knows_the_other() -> None:
    slow, fast = plans(FastAndSlow(), 4)[2:]
    assert (slow.publish_as, slow.evaluated, fast.publish_as, fast.evaluated) == ("slow", False, "policy", True)
    assert (slow.init, slow.anchors["sibling"], slow.samplers["policy"]) == (1, 2, 2)
    assert (fast.init, fast.anchors["sibling"], fast.samplers["policy"]) == (2, 3, 2)
    assert {plan.init for plan in plans(FastAndSlow(), 2)} == {0}, "both begin at the start"
    with pytest.raises(ValueError, match=r"rounds must be even with schedule=fast_and_slow, .* got 3\. Fix: rounds=4"):
        FastAndSlow().check(3)


def test_a_run_does_not_end_on_half_a_step() -> None:
    HalfSteps().check(4)
    HalfSteps().check(2)
    with pytest.raises(ValueError, match=r"rounds must be even with schedule=half_steps, .* got 3\. Fix: rounds=4"):
        HalfSteps().check(3)


# -- averaged ----------------------------------------------------------------------------------------------------------


def test_an_average_answers_beside_the_policy() -> None:
    assert Averaged().at(3, ()) == RoundPlan(
        3,
        init=2,
        samplers={"policy": 2, "reference": 0, "ema": 2},
        anchors={"reference": 0, "previous": 2},
        averages={"ema": 0.9},
    )
    assert Averaged(0.0).at(1, ()).averages == {"ema": 0.0}
    Averaged().check(3)


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, math.nan])
def test_a_decay_is_a_share(decay: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.decay must be in \[0, 1\), got"):
        Averaged(decay)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_every_version_is_chosen_on_its_own() -> None:
    schedule = Versions(
        init="start", policy="every_2", reference_sampler="every_3", reference="last", previous="every_4"
    )
    assert schedule.at(6, ()) == RoundPlan(
        6, init=0, samplers={"policy": 4, "reference": 3}, anchors={"reference": 5, "previous": 4}
    )


@given(k=st.integers(1, 20), round=st.integers(1, 200))
def test_the_named_schedules_are_choices_of_words(k: int, round: int) -> None:
    assert Versions().at(round, ()) == Fixed().at(round, ())
    word = f"every_{k}"
    assert Versions(reference_sampler=word, reference=word).at(round, ()) == EveryK(k).at(round, ())


@pytest.mark.parametrize("word", ["", "first", "every", "every_0", "every_-1", "every_2x", "every_1.5"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(
        ValueError, match=r"schedule\.previous must be start, last or every_<k> .* Fix: schedule\.previous=every_2"
    ):
        Versions(previous=word)


def test_a_reference_is_renewed_each_round_unless_told_otherwise() -> None:
    assert EveryK() == EveryK(1)


# -- lag ---------------------------------------------------------------------------------------------------------------


@given(schedule=SCHEDULES, round=st.integers(1, 200), lag=st.integers(0, 3))
def test_under_a_lag_only_who_answers_is_of_an_earlier_round(schedule: Schedule, round: int, lag: int) -> None:
    plan, own = Lagged(schedule, lag).at(round, ()), schedule.at(round, ())
    assert plan.samplers == schedule.at(max(1, round - lag), ()).samplers
    assert (plan.init, plan.anchors, plan.averages) == (own.init, own.anchors, own.averages)
    assert all(version <= max(0, round - 1 - lag) for version in plan.samplers.values())


def test_half_steps_cannot_lag() -> None:
    Lagged(HalfSteps(), 0).check(4)
    Lagged(Fixed(), 1).check(4)
    with pytest.raises(ValueError, match=r"lag=1 samples .* has half steps.* Fix: lag=0, or another schedule"):
        Lagged(HalfSteps(), 1).check(4)


@pytest.mark.parametrize("half", [1, 2, 3])
def test_a_round_that_is_not_evaluated_cannot_lag_wherever_it_is(half: int) -> None:
    class Once(Fixed):
        def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
            return replace(super().at(round, records), evaluated=round != half)

    Lagged(Once(), 1).check(half - 1)
    with pytest.raises(ValueError, match="has half steps"):
        Lagged(Once(), 1).check(3)


# -- extrapolated, history --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round", [1, 4])
def test_a_round_goes_beyond_what_it_trained(round: int) -> None:
    """trained_t = (theta_t + alpha trained_(t-1)) / (1 + alpha), so its decay is alpha / (1 + alpha)."""
    last = round - 1
    assert Extrapolated(alpha=0.5).at(round, ()) == RoundPlan(
        round,
        init=last,
        samplers={"policy": last, "reference": last},
        anchors={"reference": last, "previous": last},
        averages={"trained": pytest.approx(1 / 3)},
        extrapolation=0.5,
    )
    assert Extrapolated().alpha == 0.3


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5])
def test_a_momentum_is_a_share(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.alpha must be in \(0, 1\)"):
        Extrapolated(alpha=alpha)


@pytest.mark.parametrize(("round", "past"), [(1, [0, 0, 0, 0]), (3, [2, 1, 0, 0]), (7, [6, 5, 4, 3])])
def test_past_policies_are_anchors(round: int, past: list[int]) -> None:
    for depth in (1, 2, 4):
        plan = History(depth).at(round, ())
        names = ("previous", "previous_2", "previous_3", "previous_4")[:depth]
        assert plan.anchors == {"reference": 0, **dict(zip(names, past, strict=False))}
        assert (plan.round, plan.init, plan.samplers["policy"]) == (round, round - 1, round - 1)
    assert History().depth == 3


@pytest.mark.parametrize("depth", [0, 5])
def test_there_are_one_to_four_of_them(depth: int) -> None:
    with pytest.raises(ValueError, match=r"schedule\.depth must be 1 to 4"):
        History(depth)
