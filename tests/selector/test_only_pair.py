from __future__ import annotations

import pytest

from rlhf_flow.selector.only_pair import OnlyPair
from tests.support.worlds import one, response, scored


def test_the_better_of_two_comes_first() -> None:
    (pair,) = OnlyPair().select(one([1.0, 3.0])).pairs
    assert (pair.first, pair.second, pair.preference) == ("1/policy/1/q0", "1/policy/0/q0", 1.0)


def test_any_other_number_of_responses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"exactly 2 responses .* draws 3.* selector=best_and_worst"):
        OnlyPair().check({"policy": 2, "reference": 1})
    with pytest.raises(ValueError, match=r"exactly 2 responses .* draws 3"):
        OnlyPair().select(one([1.0, 2.0, 3.0]))


def test_answers_of_a_draw_that_is_not_paired_do_not_count() -> None:
    world = scored([[response(0), response(1), response(2, draw="opponent")]], [[1.0, 2.0, 3.0]])
    selection = OnlyPair(among=["policy"], opponent="opponent").select(world)
    assert [(pair.first, pair.worth) for pair in selection.pairs] == [("1/policy/1/q0", (0.0, 0.0))]
    assert selection.response_buckets["1/opponent/2/q0"] == "not_selected"


def test_a_truncated_response_is_in_no_pair_unless_kept() -> None:
    world = scored([[response(0, truncated=True), response(1)]], [[2.0, 1.0]])
    dropped = OnlyPair().select(world)
    assert dropped.pairs == () and dropped.pair_counts == {"no_pair": 1}
    assert dropped.response_buckets == {"1/policy/0/q0": "truncated", "1/policy/1/q0": "no_pair"}
    assert OnlyPair(truncated="keep").select(world).pairs[0].first == "1/policy/0/q0"
