from __future__ import annotations

import pytest

from rlhf_flow.selector.couples import Couples
from tests.support.worlds import response, scored, sides

DRAWS = ("policy", "policy", "plus", "minus")


def chosen(*couples: list[str], **fields: object) -> list[tuple[int, int, float]]:
    world = scored([[response(k, draw=draw) for k, draw in enumerate(DRAWS)]], [[1.0, 3.0, 2.0, 0.0]])
    return sides(Couples(couples=list(couples), **fields).select(world))


def test_each_couple_gives_the_pairs_of_its_two_draws() -> None:
    assert chosen(["policy", "policy"]) == [(1, 0, 1.0)]
    assert chosen(["plus", "minus"]) == [(2, 3, 1.0)]
    assert chosen(["policy", "policy"], ["plus", "minus"]) == [(1, 0, 1.0), (2, 3, 1.0)]
    assert chosen(["policy", "minus"]) == [(0, 3, 1.0), (1, 3, 1.0)]


def test_a_draw_that_is_missing_and_one_answer_with_itself_are_refused() -> None:
    counts = {"policy": 2, "plus": 1}
    Couples(couples=[["policy", "policy"]]).check(counts)
    with pytest.raises(ValueError, match=r"selector\.couples"):
        Couples(couples=[["policy", "zero"]]).check(counts)
    with pytest.raises(ValueError, match=r"pairs plus with itself, and its n is 1\. Fix: n: 2"):
        Couples(couples=[["plus", "plus"]]).check(counts)
    with pytest.raises(ValueError, match="lists of two draws"):
        Couples(couples=[["policy"]])
    with pytest.raises(ValueError, match="lists of two draws"):
        Couples(couples=[])


def test_by_default_the_policy_s_answers_are_paired() -> None:
    assert Couples() == Couples(couples=[["policy", "policy"]])


def test_so_many_pairs_at_most() -> None:
    counts = {"policy": 4, "plus": 2, "minus": 3}
    assert Couples(couples=[["policy", "policy"], ["plus", "minus"]]).max_pairs(counts) == 6 + 6
