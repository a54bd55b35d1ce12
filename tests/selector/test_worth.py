"""Win rates, by hand. `test_accounting.py` holds them against another computation, for every selector."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.worth import win_rates, worths
from rlhf_flow.types import Scored
from tests.support.worlds import one, response, scored

NAN = math.nan
WINS = [[0.5, 0.9, 0.2], [0.1, 0.5, NAN], [0.8, NAN, 0.5]]


def world(**changed: object) -> Scored:
    responses = [response(0, **changed), response(1, **changed), response(2, draw="opponent", mass=0.25)]
    return scored([responses], [[0.0, 0.0, 0.0]], [WINS])


def rates(scored: Scored, opponent: str | None = None) -> list[float]:
    return win_rates(scored, opponent)[0].tolist()


def test_an_answer_is_half_as_good_as_itself_and_abstentions_are_left_out() -> None:
    assert rates(one([0.0] * 3, WINS)) == pytest.approx([(0.5 + 0.9 + 0.2) / 3, 0.6 / 2, 1.3 / 2])


def test_the_diagonal_needs_no_verdict() -> None:
    bare = np.where(np.eye(3), NAN, WINS)
    assert rates(one([0.0] * 3, bare)) == rates(one([0.0] * 3, WINS))


def test_every_opponent_counts_by_its_mass() -> None:
    assert rates(world())[0] == pytest.approx((0.5 + 0.9 + 0.25 * 0.2) / 2.25)


def test_an_answer_that_meets_nobody_has_no_rate_and_no_division() -> None:
    with np.errstate(all="raise"):
        assert rates(world(), "nobody") == pytest.approx([NAN] * 3, nan_ok=True)


def test_a_named_opponent_is_compared_with_alone() -> None:
    assert rates(world(), "policy")[2] == pytest.approx(0.8)
    assert rates(world(), "opponent") == pytest.approx([0.2, NAN, 0.5], nan_ok=True)


def test_cut_answers_compete_like_any_other() -> None:
    assert rates(world(truncated=True)) == rates(world())


def test_a_pair_whose_worth_nobody_knows_is_an_abstention() -> None:
    selection = AllPairs(opponent="opponent").select(world())
    assert selection.pair_counts == {"abstained": 2, "used": 1}
    assert [(pair.first, pair.worth) for pair in selection.pairs] == [
        ("1/opponent/2/q0", (0.5, pytest.approx(0.2))),
    ]


def test_equal_utilities_have_no_advantage_whatever_their_mass() -> None:
    for masses in ([0.1, 0.2, 0.7], [1 / 6] * 6):
        answers = [response(k, mass=mass) for k, mass in enumerate(masses)]
        for utility in (0.1, 0.7, 97.0):
            tied = scored([answers], np.full((1, len(answers)), utility))
            for kind in ("advantage", "standardised"):
                assert not worths(tied, kind, None).any()
    responses = answers[:3]
    partly = worths(scored([responses], [[2.0, NAN, 2.0]]), "standardised", None)[0].tolist()
    assert partly == pytest.approx([0.0, NAN, 0.0], nan_ok=True)
    assert np.isnan(worths(scored([responses], [[NAN] * 3]), "advantage", None)).all()


def test_there_may_be_no_prompts() -> None:
    empty = scored([], np.zeros((0, 3)), np.zeros((0, 3, 3)))
    assert win_rates(empty, None).shape == (0, 3)
    assert AllPairs().select(empty).pairs == ()


def test_a_pair_may_be_worth_what_the_judge_says_of_each_side_alone() -> None:
    judged = one([3.0, -1.0, NAN], WINS)
    (pair,) = AllPairs(label="soft", worth="utility").select(judged).pairs
    assert pair.worth == (3.0, -1.0)  # and of a side without a utility there is no pair
    with pytest.raises(
        ValueError, match=r"selector.worth must be one of wins, log_odds, utility, advantage, standardised, got 'gold'"
    ):
        AllPairs(worth="gold")
