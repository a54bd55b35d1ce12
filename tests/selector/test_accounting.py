"""Every response has one bucket, every prompt considers one pair, and the totals add up: for every selector."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_flow.selector import PARTS
from rlhf_flow.types import Scored
from tests.selector.worlds import worlds

LABELS = ("hard", "soft", "sampled")


@pytest.mark.parametrize("name", PARTS)
@settings(deadline=None)
@given(data=st.data(), label=st.sampled_from(LABELS), truncated=st.sampled_from(["keep", "drop"]))
def test_every_response_and_every_pair_has_one_bucket(
    name: str, data: st.DataObject, label: str, truncated: str
) -> None:
    world: Scored = data.draw(worlds(st.just(2) if name == "only_pair" else st.integers(2, 5)))
    selection = PARTS[name](label=label, truncated=truncated).select(world)
    everyone = {one.id: one for responses in world.rollouts.responses for one in responses}
    buckets, pairs = selection.response_buckets, selection.pair_counts
    total = Counter(buckets.values())

    assert buckets.keys() == everyone.keys()
    assert sum(pairs.values()) == len(world.rollouts.prompts)
    for bucket in ("used", "used_tie", "tie", "identical", "abstained"):
        assert total[bucket] == 2 * pairs.get(bucket, 0)
    assert len(selection.pairs) == pairs.get("used", 0) + pairs.get("used_tie", 0)
    assert total.keys() <= {"used", "used_tie", "tie", "identical", "abstained", "not_selected", "truncated", "no_pair"}
    assert total["truncated"] == (truncated == "drop") * sum(one.truncated for one in everyone.values())
    assert label != "hard" or not total["used_tie"]
    assert label == "hard" or not total["tie"]


@pytest.mark.parametrize("name", PARTS)
@settings(deadline=None)
@given(data=st.data(), label=st.sampled_from(LABELS), truncated=st.sampled_from(["keep", "drop"]))
def test_pairs_are_of_different_responses_to_one_prompt_and_say_what_the_judge_said(
    name: str, data: st.DataObject, label: str, truncated: str
) -> None:
    world: Scored = data.draw(worlds(st.just(2) if name == "only_pair" else st.integers(2, 5)))
    for pair in PARTS[name](label=label, truncated=truncated).select(world).pairs:
        b = next(b for b, prompt in enumerate(world.rollouts.prompts) if prompt.id == pair.prompt)
        index = {one.id: k for k, one in enumerate(world.rollouts.responses[b])}
        i, j = index[pair.first], index[pair.second]
        first, second = world.rollouts.responses[b][i], world.rollouts.responses[b][j]
        p = float(world.wins[b, i, j])
        assert first.tokens.tolist() != second.tokens.tolist()
        assert truncated == "keep" or not (first.truncated or second.truncated)
        assert not math.isnan(p) and pair.weight == 1
        if pair.preference == 0.5:
            assert label != "hard" and (p == 0.5 or world.utility[b, i] == world.utility[b, j])
        elif label == "soft":
            assert pair.preference == pytest.approx(p) and p > 0.5
        else:
            assert pair.preference == 1
            assert p > 0.5 if label == "hard" else p > 0


@pytest.mark.parametrize("name", PARTS)
def test_values_and_numbers_of_responses_are_checked(name: str) -> None:
    for key in ("label", "truncated"):
        with pytest.raises(ValueError, match=rf"selector\.{key} must be one of .* got 'firm'"):
            PARTS[name](**{key: "firm"})
    PARTS[name]().check(2)
    with pytest.raises(ValueError, match="2 responses per prompt"):
        PARTS[name]().check(1)
