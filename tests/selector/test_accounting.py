"""Every response has one bucket and so has every considered pair, and the totals add up: for every selector."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.metrics.strengths import imputed
from rlhf_flow.selector import PARTS
from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.selector.pairing import BUCKETS, REASONS
from rlhf_flow.types import Pair, Response, Scored
from tests.support.worlds import worlds

OF_PAIRS = sorted(PARTS.keys() - {"group", "rejection", "couples", "single"})  # the others have tests of their own

DRAWS = st.sampled_from([None, "policy", "reference"])
ALONE = {"extra", "not_selected", "truncated", "too_long"}  # what only a response can be
ONE_PAIR = ("only_pair", "random", "best_and_worst", "tournament")


@st.composite
def fields(draw: st.DrawFn, name: str) -> dict[str, object]:
    """Any values of the fields that all selectors share. `margin` takes hard labels, `cross` names its own draws."""
    among = None if name in ("cross", "only_pair") else draw(st.sampled_from([None, ["policy"]]))
    own = (
        {"floor": draw(st.sampled_from([0.3, None])), "margin": 0.4, "student_margin": 0.1} if name == "margin" else {}
    )
    return own | {
        "label": draw(st.sampled_from(["hard"] if name == "margin" else ["hard", "soft", "sampled"])),
        "truncated": draw(st.sampled_from(["keep", "drop"])),
        "identical": draw(st.sampled_from(["keep", "drop"])),
        "longest": draw(st.sampled_from([None, 1])),
        "length_penalty": draw(st.sampled_from([0.0, 0.5])),
        "preference_margin": draw(st.sampled_from([0.0, 0.35])),
        "among": among,
        "opponent": draw(DRAWS),
        "extra": draw(DRAWS),
    }


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[Scored, dict[str, object]]:
    return draw(worlds(st.just(2) if name == "only_pair" else st.integers(2, 5))), draw(fields(name))


def whole(responses: tuple[Response, ...], given: dict[str, object]) -> list[Response]:
    longest = math.inf if given["longest"] is None else given["longest"]
    return [
        one for one in responses if len(one.tokens) <= longest and (given["truncated"] == "keep" or not one.truncated)
    ]


def considered(name: str, responses: tuple[Response, ...], given: dict[str, object]) -> int:
    """How many pairs of a prompt have to be counted."""
    left = [one for one in whole(responses, given) if given["among"] is None or one.draw.name in given["among"]]
    names = Counter(one.draw.name for one in left)
    if len(left) < 2 or given["extra"] not in (None, *(one.draw.name for one in whole(responses, given))):
        return 1
    if name == "cross":
        return max(1, names["policy"] * names["reference"])
    return 1 if name in ONE_PAIR else math.comb(len(left), 2)


@pytest.mark.parametrize("name", OF_PAIRS)
@given(data=st.data())
def test_every_response_and_every_pair_has_one_bucket(name: str, data: st.DataObject) -> None:
    world, given = data.draw(cases(name))
    selection = PARTS[name](**given).select(world)
    everyone = {one.id: one for responses in world.rollouts.responses for one in responses}
    buckets, pairs = selection.response_buckets, selection.pair_counts
    total = Counter(buckets.values())

    assert buckets.keys() == everyone.keys()
    assert {*buckets.values(), *pairs} <= set(BUCKETS)
    assert sum(pairs.values()) == sum(considered(name, responses, given) for responses in world.rollouts.responses)
    assert len(selection.pairs) == pairs.get("used", 0) + pairs.get("used_tie", 0)
    assert total["truncated"] == (given["truncated"] == "drop") * sum(one.truncated for one in everyone.values())
    cut = {one.id for one in everyone.values() if one.truncated and given["truncated"] == "drop"}
    left = {one.id for responses in world.rollouts.responses for one in whole(responses, given)}
    assert total["too_long"] == len(everyone.keys() - left - cut)
    dropped = given["label"] == "hard" or given["preference_margin"] > 0
    assert not dropped or given["identical"] == "keep" or not total["used_tie"]
    assert dropped or not total["tie"]
    assert given["preference_margin"] > 0 or not total["low_margin"]
    assert given["identical"] == "drop" or not total["identical"]
    assert not ALONE & pairs.keys()
    if name in ONE_PAIR:
        for bucket in {*BUCKETS} - ALONE - {"no_pair"}:
            assert total[bucket] == 2 * pairs.get(bucket, 0)
    for bucket in total.keys() - ALONE:
        assert pairs[bucket] > 0


@given(world=worlds(st.integers(2, 4)))
def test_a_pair_without_a_verdict_is_counted_under_the_reason(world: Scored) -> None:
    expected: Counter[str] = Counter()
    for b, responses in enumerate(world.rollouts.responses):
        for (i, one), (j, other) in combinations(enumerate(responses), 2):
            if math.isnan(world.wins[b, i, j]) and one.tokens.tolist() != other.tokens.tolist():
                named = [name for name in REASONS if name in world.pair_flags and world.pair_flags[name][b, i, j]]
                expected[[*named, "abstained"][0]] += 1
    counts = PARTS["all_pairs"](truncated="keep").select(world).pair_counts
    assert {name: counts.get(name, 0) for name in (*REASONS, "abstained")} == {
        name: expected[name] for name in (*REASONS, "abstained")
    }


@pytest.mark.parametrize("name", OF_PAIRS)
@given(data=st.data())
def test_a_response_is_called_used_where_a_pair_uses_it(name: str, data: st.DataObject) -> None:
    world, given = data.draw(cases(name))
    selection = PARTS[name](**given).select(world)
    uses: dict[str, set[str]] = {id: set() for id in selection.response_buckets}
    for pair in selection.pairs:
        for side in (pair.first, pair.second):
            uses[side].add("used_tie" if pair.preference == 0.5 else "used")
        if pair.extra is not None:
            uses[pair.extra].add("extra")
    for id, bucket in selection.response_buckets.items():
        best = next((use for use in ("used", "used_tie", "extra") if use in uses[id]), None)
        assert bucket == best if best else bucket not in ("used", "used_tie", "extra")


@pytest.mark.parametrize("name", OF_PAIRS)
@given(data=st.data())
def test_pairs_are_of_different_responses_to_one_prompt_that_may_be_paired(name: str, data: st.DataObject) -> None:
    world, given = data.draw(cases(name))
    found: Counter[tuple[str, ...]] = Counter()
    for pair in PARTS[name](**given).select(world).pairs:
        b, i, j = located(world, pair)
        first, second = world.rollouts.responses[b][i], world.rollouts.responses[b][j]
        found[pair.prompt, *sorted((pair.first, pair.second))] += 1
        assert i != j
        assert given["identical"] == "keep" or first.tokens.tolist() != second.tokens.tolist()
        assert given["truncated"] == "keep" or not (first.truncated or second.truncated)
        assert given["among"] is None or {first.draw.name, second.draw.name} <= set(given["among"])
        assert pair.weight == first.mass * second.mass
        third(pair, world.rollouts.responses[b], given)
    assert all(times == 1 for times in found.values())


def third(pair: Pair, responses: tuple[Response, ...], given: dict[str, object]) -> None:
    """Assert that the extra is a side, where one side alone is of that draw, and else the draw's first answer."""
    own = [one.id for one in whole(responses, given) if one.draw.name == given["extra"]]
    sides = [id for id in (pair.first, pair.second) if id in own]
    expected = None if given["extra"] is None else sides[0] if len(sides) == 1 else own[0]
    assert pair.extra == expected


@pytest.mark.parametrize("name", sorted(set(OF_PAIRS) - {"margin"}))
@given(data=st.data())
def test_preferences_say_what_the_judge_said(name: str, data: st.DataObject) -> None:
    world, given = data.draw(cases(name))
    pairs, world = PARTS[name](**given).select(world).pairs, penalised(world, given["length_penalty"])
    for pair in pairs:
        b, i, j = located(world, pair)
        first, second = world.rollouts.responses[b][i], world.rollouts.responses[b][j]
        p, preference = float(world.wins[b, i, j]), pair.preference
        if first.tokens.tolist() == second.tokens.tolist():
            assert preference == 0.5
            continue
        assert not math.isnan(p) and (preference == 0.5 or abs(p - 0.5) >= given["preference_margin"])
        if name == "cross":
            assert (first.draw.name, second.draw.name) == ("policy", "reference")
        elif preference != 0.5:
            assert preference > 0.5
        if preference == 0.5:
            assert given["label"] != "hard" and (p == 0.5 or world.utility[b, i] == world.utility[b, j])
        elif given["label"] == "soft":
            assert preference == pytest.approx(p)
        else:
            assert preference in (0.0, 1.0)
            assert (p > 0.5) == (preference == 1) if given["label"] == "hard" else p != 1 - preference


@pytest.mark.parametrize("name", OF_PAIRS)
@given(data=st.data())
def test_worth_is_the_mean_win_rate_against_the_opponents(name: str, data: st.DataObject) -> None:
    world, given = data.draw(cases(name))
    pairs, world = PARTS[name](**given).select(world).pairs, penalised(world, given["length_penalty"])
    if world.pair_flags.get("unasked", np.zeros(0)).any():  # such pairs have the probability of fitted strengths
        each = zip(world.wins, world.pair_flags["unasked"], strict=True)
        world = replace(world, wins=np.stack([imputed(wins, unasked) for wins, unasked in each]))
    for pair in pairs:
        b, i, j = located(world, pair)
        assert pair.worth == pytest.approx(tuple(worth(world, b, k, given["opponent"]) for k in (i, j)))


def worth(world: Scored, b: int, i: int, opponent: object) -> float:
    total = rate = 0.0
    for j, other in enumerate(world.rollouts.responses[b]):
        p = float(world.wins[b, i, j])
        if opponent in (None, other.draw.name) and not math.isnan(p):
            total, rate = total + other.mass, rate + other.mass * (0.5 if i == j else p)
    return rate / total


def located(world: Scored, pair: Pair) -> tuple[int, int, int]:
    """The indices of the pair's prompt, first and second."""
    b = next(b for b, prompt in enumerate(world.rollouts.prompts) if prompt.id == pair.prompt)
    index = {one.id: k for k, one in enumerate(world.rollouts.responses[b])}
    return b, index[pair.first], index[pair.second]


@pytest.mark.parametrize("name", PARTS)
def test_values_and_numbers_of_responses_are_checked(name: str) -> None:
    for key in ("label", "truncated", "identical"):
        with pytest.raises(ValueError, match=rf"selector\.{key} must be one of .* got 'firm'"):
            PARTS[name](**{key: "firm"})
    for margin in (-0.1, 0.5, math.nan):
        with pytest.raises(ValueError, match=r"selector\.preference_margin must be in \[0, 1/2\), .* got"):
            PARTS[name](preference_margin=margin)
    both = {"policy": 2 if name == "couples" else 1, "reference": 1}
    PARTS[name]().check(both)
    PARTS[name](opponent="reference", extra="policy").check(both)
    for key in ("opponent", "extra"):
        with pytest.raises(ValueError, match=rf"selector\.{key} must name a draw .* has policy, reference, got 'ref'"):
            PARTS[name](**{key: "ref"}).check(both)


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"cross", "single"}))
def test_only_the_draws_that_are_paired_count(name: str) -> None:
    with pytest.raises(ValueError, match="2 responses per prompt"):
        PARTS[name]().check({"policy": 1})
    PARTS[name](among=["policy"]).check({"policy": 2, "opponent": 5})
    with pytest.raises(ValueError, match="2 responses per prompt"):
        PARTS[name](among=["policy"]).check({"policy": 1, "opponent": 5})
    with pytest.raises(ValueError, match=r"selector\.among must name a draw of the sampler"):
        PARTS[name](among=["policy", "ref"]).check({"policy": 2})
