from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.types import Scored
from tests.support.worlds import one, response, scored, sides


def chosen(world: Scored, **fields: object) -> list[tuple[int, int, float]]:
    return sides(BestAndWorst(**fields).select(world))


@pytest.mark.parametrize(
    ("utility", "expected"),
    [([1.0, 4.0, 0.0, 2.0], (1, 2)), ([4.0, 4.0, 0.0, 0.0], (0, 2)), ([0.0, 4.0, 0.0, 4.0], (1, 0))],
)
def test_the_best_meets_the_worst_and_among_equals_the_first(utility: list[float], expected: tuple[int, int]) -> None:
    assert chosen(one(utility)) == [(*expected, 1.0)]


def test_equal_worth_is_a_tie() -> None:
    world = one([2.0, 2.0, 2.0])
    hard, soft = BestAndWorst().select(world), BestAndWorst(label="soft").select(world)
    assert hard.pairs == () and hard.pair_counts == {"tie": 1}
    assert list(hard.response_buckets.values()) == ["tie", "tie", "not_selected"]
    assert soft.pair_counts == {"used_tie": 1} and soft.pairs[0].preference == 0.5


def test_equal_worth_of_a_judge_that_cycles_is_a_tie_too() -> None:
    cycle = [[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]
    assert BestAndWorst().select(one([0.5] * 3, cycle)).pair_counts == {"tie": 1}


def test_the_pair_itself_is_judged_head_to_head() -> None:
    wins = [[0.5, 0.9, 0.4], [0.1, 0.5, 0.9], [0.6, 0.1, 0.5]]  # 0 is best by the mean, 2 the worst, and 2 beats 0
    assert chosen(one([0.6, 0.5, 0.4], wins)) == [(2, 0, 1.0)]
    assert chosen(one([0.6, 0.5, 0.4], wins), label="soft") == [(2, 0, pytest.approx(0.6))]


def test_the_best_may_be_truncated_and_then_the_next_is_best() -> None:
    world = scored([[response(0, truncated=True), response(1), response(2)]], [[9.0, 2.0, 1.0]])
    assert chosen(world) == [(1, 2, 1.0)]
    assert chosen(world, truncated="keep") == [(0, 2, 1.0)]


def test_responses_without_a_utility_are_passed_over() -> None:
    nan = math.nan
    wins = [[0.5, nan, nan], [nan, 0.5, 0.2], [nan, 0.8, 0.5]]
    assert chosen(one([nan, 0.3, 0.7], wins)) == [(2, 1, 1.0)]
    nothing = BestAndWorst().select(one([nan, nan], [[0.5, nan], [nan, 0.5]]))
    assert nothing.pairs == () and nothing.pair_counts == {"abstained": 1}


# -- of a judge that did not compare every two -----------------------------------------------------------------------


def test_a_pair_that_the_judge_was_not_asked_about_is_counted_as_such() -> None:
    unasked = np.array([[[False, True], [True, False]]])
    world = replace(one([0.7, 0.3], [[0.5, math.nan], [math.nan, 0.5]]), pair_flags={"unasked": unasked})
    assert BestAndWorst().select(world).pair_counts == {"unasked": 1}


def test_the_best_of_one_draw_meets_the_worst_of_another() -> None:
    draws = ("policy", "policy", "start", "start")
    world = scored([[response(k, draw=draw) for k, draw in enumerate(draws)]], [[1.0, 3.0, 4.0, 2.0]])
    assert chosen(world, best_of=["policy"], worst_of=["start"]) == [(1, 3, 1.0)]
    assert chosen(world, worst_of=["start"]) == [(2, 3, 1.0)]
    lower = replace(world, utility=np.array([[5.0, 6.0, 4.0, 2.0]]))
    beaten = BestAndWorst(best_of=["start"], worst_of=["policy"]).select(lower)
    assert beaten.pairs == () and beaten.pair_counts == {"not_beaten": 1}
    level = replace(world, utility=np.array([[2.0, 1.0, 4.0, 2.0]]))
    assert BestAndWorst(best_of=["policy"], worst_of=["start"]).select(level).pair_counts == {"not_beaten": 1}
    for unknown in ([math.nan, math.nan, 4.0, 2.0], [1.0, 3.0, math.nan, math.nan]):
        half = replace(world, utility=np.array([unknown]))
        assert BestAndWorst(best_of=["policy"], worst_of=["start"]).select(half).pairs == ()
    with pytest.raises(ValueError, match=r"selector\.best_of"):
        BestAndWorst(best_of=["teacher"]).check({"policy": 2})
