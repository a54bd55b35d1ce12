from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.selector.margin import Margin
from rlhf_flow.types import Scored
from tests.support.worlds import one, response, scored, sides

WORTH = st.lists(st.integers(0, 6), min_size=2, max_size=6)


def six(*worth: float, teacher: float) -> Scored:
    """Answers of the student, and then the teacher's."""
    responses = [response(k) for k in range(len(worth))]
    responses.append(response(len(worth), draw="gold", source="dataset"))
    return scored([responses], [[*worth, teacher]])


def test_a_good_answer_meets_every_one_that_is_clearly_worse() -> None:
    selection = Margin().select(six(5, 4, 3, 2, teacher=5))
    assert sorted(sides(selection)) == [(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0), (4, 2, 1.0), (4, 3, 1.0)]
    assert selection.pair_counts == {"used": 5, "below_margin": 2, "below_floor": 3}


def test_the_student_needs_a_smaller_margin_than_its_teacher() -> None:
    assert sides(Margin().select(six(5, 4, teacher=0))) == [(0, 1, 1.0), (0, 2, 1.0)]
    assert sides(Margin().select(six(4, 3, teacher=5))) == [(2, 1, 1.0)]
    assert (2, 0, 1.0) in sides(Margin(margin=1.0).select(six(4, 3, teacher=5)))


@given(worth=WORTH, floor=st.integers(0, 6), margin=st.integers(1, 3))
def test_it_is_every_pair_that_the_rule_allows(worth: list[int], floor: int, margin: int) -> None:
    pairs = sides(Margin(floor=floor, student_margin=margin).select(one([float(u) for u in worth])))
    n = range(len(worth))
    assert sorted(pairs) == sorted(
        (i, j, 1.0) for i in n for j in n if worth[i] >= floor and worth[i] - worth[j] >= margin
    )


def test_without_a_floor_the_margin_decides_alone() -> None:
    assert sides(Margin(floor=None).select(one([-3.0, -4.0]))) == [(0, 1, 1.0)]
    assert Margin().select(one([-3.0, -4.0])).pair_counts == {"below_floor": 1}


def test_utilities_decide_who_won_and_who_is_left_out() -> None:
    against = [[0.5, 0.1], [0.9, 0.5]]
    assert sides(Margin().select(one([6.0, 1.0], against))) == [(0, 1, 1.0)]
    unknown = [[0.5, math.nan], [math.nan, 0.5]]
    assert Margin().select(one([math.nan, 6.0], unknown)).pair_counts == {"abstained": 1}


def test_an_answer_that_repeats_itself_is_worse_than_any_good_one() -> None:
    tokens = [[1, 2] * 4, [1, 2] * 3 + [3], [7, 8, 9]]
    world = scored([[response(k, tokens=these) for k, these in enumerate(tokens)]], [[6.0, 5.0, 5.0]])
    assert sides(Margin().select(world)) == [(0, 1, 1.0), (0, 2, 1.0)]
    flagged = Margin(repeat_ngram=2).select(world)  # 1 2 comes four times in the first, three times in the second
    assert sides(flagged) == [(1, 0, 1.0), (2, 0, 1.0)]
    assert flagged.pair_counts == {"used": 2, "below_margin": 1}
    strict = Margin(repeat_ngram=2, repeat_most=2).select(world)
    assert sides(strict) == [(2, 0, 1.0), (2, 1, 1.0)]
    assert strict.pair_counts == {"used": 2, "below_floor": 1}


def test_of_two_answers_that_repeat_themselves_neither_is_good() -> None:
    world = scored([[response(k, tokens=[1, 2] * (4 + k)) for k in range(2)]], [[6.0, 1.0]])
    assert Margin(floor=None, repeat_ngram=2).select(world).pair_counts == {"below_floor": 1}


@given(tokens=st.lists(st.integers(0, 2), max_size=12), n=st.integers(1, 4), most=st.integers(1, 4))
def test_repetition_is_counted_by_hand_the_same(tokens: list[int], n: int, most: int) -> None:
    rows = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    expected = any(rows.count(row) > most for row in rows)
    world = scored([[response(0, tokens=tokens), response(1, tokens=[9])]], [[6.0, 0.0]])
    pairs = sides(Margin(floor=5.0, repeat_ngram=n, repeat_most=most).select(world))
    assert pairs == ([] if expected else [(0, 1, 1.0)])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label": "soft"}, r"selector\.label must be hard for selector=margin.* got soft\. Fix: selector=all_pairs"),
        ({"margin": 0.0}, r"selector\.margin must be > 0, or equals would beat each other \(try 2\), got 0\.0"),
        ({"student_margin": -1.0}, r"selector\.student_margin must be > 0"),
        ({"student_margin": 0.0}, r"selector\.student_margin must be > 0"),
        ({"repeat_ngram": -1}, r"selector\.repeat_ngram must be >= 0"),
        ({"repeat_most": 0}, r"selector\.repeat_most must be >= 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Margin(**fields)
