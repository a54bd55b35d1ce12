"""All answers to a prompt as one example, and answers of the reference that are accepted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rlhf_flow.selector.group import Group
from rlhf_flow.selector.pairing import BUCKETS
from rlhf_flow.selector.rejection import Rejection
from rlhf_flow.selector.worth import WORTHS, worths
from rlhf_flow.types import Scored
from tests.scorer.conftest import rollouts


def scored(*utility: list[float]) -> Scored:
    """A prompt for each list, with answers of these utilities, by Bradley and Terry."""
    asked = rollouts(*([f"{k}" for k in range(len(each))] for each in utility))
    values = np.array(utility)
    wins = 1 / (1 + np.exp(values[:, None, :] - values[:, :, None]))
    return Scored(asked, values, wins)


def test_a_group_has_all_answers_the_best_first() -> None:
    given = scored([1.0, 3.0, 2.0], [0.0, 0.0, -1.0])
    one, other = Group().select(given).pairs
    ids = [[answer.id for answer in group] for group in given.rollouts.responses]
    assert (one.first, one.second, *one.others) == (ids[0][1], ids[0][2], ids[0][0])
    assert one.worth == (3.0, 2.0, 1.0) and one.preference == 1.0
    assert (other.first, other.second, *other.others) == tuple(ids[1])  # the first drawn, if equal
    assert other.preference == 0.5 and other.mass is None


def test_a_third_answer_is_in_no_group_and_each_group_has_it() -> None:
    given = scored([1.0, 3.0, math.nan])
    answers = zip(given.rollouts.responses[0], "aab", strict=True)
    drawn = [replace(one, draw=replace(one.draw, name=name)) for one, name in answers]
    given = replace(given, rollouts=replace(given.rollouts, responses=(tuple(drawn),)))
    selection = Group(extra="b").select(given)
    (group,) = selection.pairs
    assert (group.first, group.second, group.others, group.extra) == (drawn[1].id, drawn[0].id, (), drawn[2].id)
    assert selection.response_buckets[drawn[2].id] == "extra"
    without = Group(extra="c").select(given)
    assert without.pairs == () and without.pair_counts == {"no_pair": 1}


def test_a_group_may_keep_the_order_of_the_draws() -> None:
    given = scored([1.0, math.nan, 3.0])
    ids = [answer.id for answer in given.rollouts.responses[0]]
    (group,) = Group(order="drawn").select(given).pairs
    assert (group.first, group.second, *group.others) == tuple(ids)
    with pytest.raises(ValueError, match=r"selector\.order must be worth or drawn, got 'random'"):
        Group(order="random")


def test_answers_without_a_worth_or_cut_are_left_out_and_counted() -> None:
    given = scored([1.0, math.nan, 2.0], [1.0, math.nan, math.nan])
    (group, alone) = given.rollouts.responses
    cut = replace(group[0], truncated=True)
    given = replace(given, rollouts=replace(given.rollouts, responses=((cut, *group[1:]), alone)))
    selection = Group().select(given)
    assert selection.pairs == ()
    buckets = Counter(selection.response_buckets.values())
    assert buckets == {"truncated": 1, "abstained": 3, "no_pair": 2} and set(buckets) <= set(BUCKETS)
    assert selection.pair_counts == {"no_pair": 2}
    kept = Group(truncated="keep").select(given)
    assert [len(pair.others) + 2 for pair in kept.pairs] == [2]
    assert kept.pair_counts == {"used": 1, "no_pair": 1}


@pytest.mark.parametrize("kind", WORTHS)
def test_what_an_answer_is_worth(kind: str) -> None:
    utility = np.array([1.0, 4.0, 2.0])
    (found,) = worths(scored(utility.tolist()), kind, None)
    odds = utility[:, None] - utility
    expected = {
        "wins": (1 / (1 + np.exp(-odds))).mean(-1),
        "log_odds": odds.mean(-1),
        "utility": utility,
        "advantage": utility - utility.mean(),
        "standardised": (utility - utility.mean()) / utility.std(),
    }[kind]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    (pair,) = Group(worth=kind).select(scored(utility.tolist())).pairs
    assert pair.worth == pytest.approx(sorted(expected, reverse=True))


def test_an_answer_without_a_utility_is_not_compared_with() -> None:
    given = scored([1.0, math.nan, 4.0])
    np.testing.assert_allclose(worths(given, "advantage", None), [[-1.5, math.nan, 1.5]])
    np.testing.assert_allclose(worths(given, "standardised", None), [[-1.0, math.nan, 1.0]])


def test_the_log_odds_of_a_certain_verdict_are_finite() -> None:
    certain = replace(scored([1.0, 0.0]), wins=np.array([[[0.5, 1.0], [0.0, 0.5]]]))
    odds = math.log((1 - 1e-6) / 1e-6) / 2
    np.testing.assert_allclose(worths(certain, "log_odds", None), [[odds, -odds]], rtol=1e-9)


def test_equal_answers_have_no_standardised_worth() -> None:
    assert worths(scored([2.0, 2.0]), "standardised", None).tolist() == [[0.0, 0.0]]


def test_enumerated_answers_keep_their_mass() -> None:
    given = scored([1.0, 2.0])
    (group,) = given.rollouts.responses
    masses = tuple(replace(one, mass=mass) for one, mass in zip(group, (0.25, 0.75), strict=True))
    (pair,) = Group().select(replace(given, rollouts=replace(given.rollouts, responses=(masses,)))).pairs
    assert pair.mass == (0.75, 0.25)


def test_a_prompt_has_one_group_however_many_answers() -> None:
    assert [Group().max_pairs({"policy": n}) for n in (2, 8)] == [1, 1]
    two = Group().select(scored([1.0, 2.0]))
    assert two.pair_counts == {"used": 1} and set(two.response_buckets.values()) == {"used"}


# -- rejection ---------------------------------------------------------------------------------------------------------


def test_accepted_answers_are_paired_in_turn() -> None:
    given = scored([0.0, 1.0, 2.0, 3.0])
    pairs = Rejection(beta=1e6, accept=4).select(given).pairs
    assert len(pairs) == 2
    assert len({id for pair in pairs for id in (pair.first, pair.second)}) == 4


def test_without_a_temperature_the_best_are_accepted() -> None:
    given = scored([0.0, 1.0, 2.0, 3.0])
    ids = [one.id for one in given.rollouts.responses[0]]
    (pair,) = Rejection(beta=0.0, accept=2).select(given).pairs
    assert (pair.first, pair.second) == (ids[3], ids[2])


@pytest.mark.parametrize(("accept", "pairs"), [(2, 1), (3, 1), (4, 2), (8, 2)])
def test_so_many_are_accepted_at_most(accept: int, pairs: int) -> None:
    selection = Rejection(beta=1e6, accept=accept).select(scored([0.0, 1.0, 2.0, 3.0]))
    assert len(selection.pairs) == pairs
    assert Rejection(accept=accept).max_pairs({"policy": 4}) == pairs
    assert Counter(selection.response_buckets.values())["used"] == 2 * pairs


def test_the_defaults_are_half_a_unit_and_eight_answers() -> None:
    assert (Rejection().beta, Rejection().accept) == (0.5, 8)
    assert Rejection().max_pairs({"reference": 64}) == 4


def test_the_same_answers_are_accepted_again() -> None:
    given = scored(*np.random.default_rng(0).normal(size=(5, 8)).tolist())
    assert Rejection().select(given) == Rejection().select(given)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"selector\.beta must be >= 0"):
        Rejection(beta=-1.0)
    with pytest.raises(ValueError, match=r"selector\.accept must be >= 2"):
        Rejection(accept=1)
