from __future__ import annotations

import math

import pytest

from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.types import Scored
from tests.selector.worlds import one, response, scored, sides


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


# -- with a length penalty --------------------------------------------------------------------------------------------


def spoken(*answers: tuple[float, int], wins: list[list[float]] | None = None) -> Scored:
    """One prompt; an answer for each (utility, number of characters)."""
    responses = [response(k, text="x" * length) for k, (_, length) in enumerate(answers)]
    return scored([responses], [[utility for utility, _ in answers]], None if wins is None else [wins])


def test_one_number_ranks_and_labels() -> None:
    world = spoken((3.0, 30), (2.0, 5), (1.5, 20))
    assert chosen(world) == [(0, 2, 1.0)]
    assert chosen(world, length_penalty=0.1) == [(1, 2, 1.0)]  # 0.0, 1.5, -0.5
    assert chosen(world, length_penalty=0.25) == [(1, 0, 1.0)]  # -4.5, 0.75, -3.5: the judge has 0 beat 1


def test_the_penalty_decides_against_a_judge_that_cycles_and_where_it_makes_equals() -> None:
    against = [[0.5, 0.1], [0.9, 0.5]]
    assert chosen(spoken((2.0, 0), (1.0, 0), wins=against)) == [(1, 0, 1.0)]
    assert chosen(spoken((2.0, 0), (1.0, 0), wins=against), length_penalty=0.1) == [(0, 1, 1.0)]
    tied = BestAndWorst(length_penalty=0.5).select(spoken((2.0, 4), (1.0, 2)))
    assert tied.pair_counts == {"tie": 1}


def test_no_penalty_makes_a_winner_of_answers_without_utility() -> None:
    world = spoken((math.nan, 3), (2.0, 4), wins=[[0.5, 0.9], [0.1, 0.5]])
    assert BestAndWorst(length_penalty=0.5).select(world).pair_counts == {"abstained": 1}


def test_worth_stays_the_win_rate_by_the_judge() -> None:
    (pair,) = BestAndWorst(length_penalty=0.25).select(spoken((3.0, 30), (2.0, 5))).pairs
    assert (pair.first, pair.worth) == ("1/policy/1/q0", (0.25, 0.75))


def test_a_penalty_has_no_probabilities_to_teach() -> None:
    for label in ("soft", "sampled"):
        with pytest.raises(ValueError, match=rf"label must be hard .* got {label}.* selector\.length_penalty=0"):
            BestAndWorst(label=label, length_penalty=0.001)
    for penalty in (-0.1, math.nan):
        with pytest.raises(ValueError, match=r"selector\.length_penalty must be >= 0, got"):
            BestAndWorst(length_penalty=penalty)
