from __future__ import annotations

import numpy as np
import pytest

from rlhf_flow.selector.cross import Cross
from rlhf_flow.types import Scored
from tests.support.worlds import response, scored, sides


def world(policy: int, reference: int, *, others: int = 0, **changed: object) -> Scored:
    """The answer k of `policy` is worth 2k, of `reference` 2k + 1: 2k, 2k + 1 and so on, whichever is asked first."""
    names = ["reference"] * reference + ["policy"] * policy + ["other"] * others
    responses = [response(k, draw=name, **changed) for k, name in enumerate(names)]
    utility = [*range(1, 2 * reference, 2), *range(0, 2 * policy, 2), *[9] * others]
    return scored([responses], np.array([utility]))


@pytest.mark.parametrize(("policy", "reference"), [(1, 1), (2, 3), (4, 1)])
def test_everyone_of_one_draw_meets_everyone_of_the_other(policy: int, reference: int) -> None:
    selection = Cross().select(world(policy, reference))
    met = {(i, j) for i, j, _ in sides(selection)}
    assert met == {(reference + i, j) for i in range(policy) for j in range(reference)}
    assert selection.pair_counts == {"used": policy * reference}


def test_the_draw_that_stays_first() -> None:
    assert Cross(first="a", second="b").first_draw == "a"
    assert Cross(first="a", second="b", keep_order=False).first_draw is None


def test_the_policy_stays_first_whoever_won() -> None:
    lost = world(1, 1)
    assert sides(Cross().select(lost)) == [(1, 0, 0.0)]
    assert sides(Cross(keep_order=False).select(lost)) == [(0, 1, 1.0)]
    assert sides(Cross(first="reference", second="policy").select(lost)) == [(0, 1, 1.0)]
    soft = Scored(lost.rollouts, lost.utility, np.array([[[0.5, 0.75], [0.25, 0.5]]]))
    assert sides(Cross(label="soft").select(soft)) == [(1, 0, 0.25)]
    assert sides(Cross(label="soft", keep_order=False).select(soft)) == [(0, 1, 0.75)]


def test_worth_goes_with_its_side() -> None:
    for order in (True, False):
        (pair,) = Cross(keep_order=order).select(world(1, 1)).pairs
        assert dict(zip((pair.first, pair.second), pair.worth, strict=True)) == {
            "1/reference/0/q0": 0.75,
            "1/policy/1/q0": 0.25,
        }


def test_other_draws_are_in_no_pair() -> None:
    selection = Cross().select(world(1, 1, others=2))
    assert selection.pair_counts == {"used": 1}
    assert list(selection.response_buckets.values()) == ["used", "used", "not_selected", "not_selected"]


def test_a_prompt_that_lost_one_draw_has_no_pair() -> None:
    responses = [response(0), response(1), response(2, draw="reference", truncated=True)]
    selection = Cross().select(scored([responses], [[1.0, 2.0, 3.0]]))
    assert selection.pair_counts == {"no_pair": 1} and selection.pairs == ()
    assert list(selection.response_buckets.values()) == ["no_pair", "no_pair", "truncated"]


def test_the_third_response_is_the_pairs_own_where_it_has_one() -> None:
    pairs = Cross(extra="reference").select(world(2, 2)).pairs
    assert [(pair.second, pair.extra) for pair in pairs] == [(pair.second, pair.second) for pair in pairs]
    assert len({pair.extra for pair in pairs}) == 2
    assert {pair.extra for pair in Cross(extra="other").select(world(2, 2, others=2)).pairs} == {"1/other/4/q0"}


def test_a_third_response_that_is_in_no_pair_is_accounted_for() -> None:
    selection = Cross(extra="other").select(world(1, 1, others=2))
    assert list(selection.response_buckets.values()) == ["used", "used", "extra", "not_selected"]


def test_without_a_third_response_there_is_no_pair() -> None:
    responses = [response(0), response(1, draw="reference"), response(2, draw="other", truncated=True)]
    selection = Cross(extra="other").select(scored([responses], [[1.0, 2.0, 3.0]]))
    assert selection.pair_counts == {"no_pair": 1}
    assert list(selection.response_buckets.values()) == ["no_pair", "no_pair", "truncated"]


def test_an_enumerated_pair_weighs_what_it_is_likely() -> None:
    mass = {"policy": [0.7, 0.3], "reference": [0.2, 0.8]}
    responses = [response(k, draw=name, mass=mass[name][k]) for name in mass for k in range(2)]
    pairs = Cross(label="soft", identical="keep").select(scored([responses], [[1.0, 2.0, 1.0, 2.0]])).pairs
    assert sum(pair.weight for pair in pairs) == pytest.approx(1)
    assert [pair.preference for pair in pairs] == [0.5, 0.0, 1.0, 0.5]


def test_draws_that_cannot_be_crossed_are_refused() -> None:
    Cross().check({"policy": 1, "reference": 1})
    with pytest.raises(ValueError, match=r"selector\.second must name a draw .* which has policy, got 'reference'"):
        Cross().check({"policy": 2})
    with pytest.raises(ValueError, match=r"selector\.first and selector\.second must be two draws, .*all_pairs"):
        Cross(second="policy")
    with pytest.raises(ValueError, match=r"selector\.among must be null .* got policy\. Fix: set selector\.first"):
        Cross(among=["policy"])
