from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.selector.tournament import Tournament
from tests.support.worlds import one, response, scored, sides


@given(worth=st.integers(1, 4).flatmap(lambda rounds: st.permutations(range(2**rounds))), label=st.booleans())
def test_of_a_judge_without_cycles_it_is_the_best_against_the_worst(worth: list[int], label: bool) -> None:
    ((best, worst, preference),) = sides(Tournament(label="soft" if label else "hard").select(one(worth)))
    assert (best, worst, preference) == (worth.index(len(worth) - 1), worth.index(0), 1.0)


def test_it_asks_only_who_meets_whom() -> None:
    met: set[tuple[int, int]] = set()

    class Asked(np.ndarray):
        def __getitem__(self, at: object) -> object:
            if isinstance(at, tuple) and len(at) == 2:
                met.add(tuple(sorted(at)))
            return super().__getitem__(at)

    world = one([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])
    object.__setattr__(world, "wins", world.wins.view(Asked))
    Tournament().select(world)
    assert len(met) == 11


def judge(n: int, beats: dict[tuple[int, int], float]) -> np.ndarray:
    """Ties, but for what is said."""
    wins = np.full((n, n), 0.5)
    for (i, j), p in beats.items():
        wins[i, j], wins[j, i] = p, 1 - p
    return wins


def test_a_match_that_is_tied_or_not_judged_is_won_by_the_first() -> None:
    nothing_known = judge(4, {(0, 3): 0.9})  # 0 beats 1, 2 beats 3, 0 beats 2, 1 beats 3
    assert sides(Tournament().select(one([0.0] * 4, nothing_known))) == [(0, 3, 1.0)]
    abstained = np.where(nothing_known == 0.5, np.nan, nothing_known)
    assert sides(Tournament().select(one([0.0] * 4, abstained))) == [(0, 3, 1.0)]


@pytest.mark.parametrize("label", ["hard", "soft", "sampled"])
@pytest.mark.parametrize("p", [0.5, 0.2, 0.0])
def test_a_best_that_does_not_beat_the_worst_makes_no_pair(label: str, p: float) -> None:
    cycle = judge(4, {(0, 1): 0.9, (2, 3): 0.9, (0, 2): 0.9, (1, 3): 0.9, (0, 3): p})
    selection = Tournament(label=label).select(one([0.0] * 4, cycle))
    assert selection.pairs == () and selection.pair_counts == {"not_beaten": 1}
    assert list(selection.response_buckets.values()) == ["not_beaten", "not_selected", "not_selected", "not_beaten"]


def test_a_last_match_that_is_not_judged_is_an_abstention() -> None:
    assert Tournament().select(one([0.0] * 2, judge(2, {(0, 1): np.nan}))).pair_counts == {"abstained": 1}


def test_where_cut_answers_are_dropped_the_first_ones_play() -> None:
    cut = [response(k, truncated=k == 0) for k in range(8)]
    world = scored([cut], [[9.0, 5.0, 4.0, 3.0, 2.0, 8.0, 0.0, 1.0]])
    assert sides(Tournament().select(world)) == [(1, 4, 1.0)]  # of 1, 2, 3, 4
    assert sides(Tournament(truncated="keep").select(world)) == [(0, 6, 1.0)]


def test_only_powers_of_two_can_be_paired_off() -> None:
    for n in (2, 4, 8, 16):
        Tournament().check({"policy": n // 2, "reference": n // 2})
    with pytest.raises(ValueError, match=r"power of two .* draws 6\. Fix: draw 4 or 8, or selector=best_and_worst"):
        Tournament().check({"policy": 6})
    Tournament(among=["policy"]).check({"policy": 4, "opponent": 1})


def test_of_a_judge_that_held_its_own_the_utilities_say_who_was_best_and_worst() -> None:
    nan = math.nan
    wins = judge(4, {(0, 2): nan, (0, 3): nan, (0, 1): 0.1, (2, 3): 0.9, (1, 3): 0.8, (1, 2): 0.6})
    world = one([0.4, 0.7, 0.6, 0.2], wins)  # of three answers, as where one was cut, none was met by 0
    held = replace(world, pair_flags={"unasked": np.isnan(wins)[None]})
    assert sides(Tournament(label="soft").select(held)) == [(1, 3, pytest.approx(0.8))]
    lost = replace(held, utility=np.array([[0.9, 0.1, 0.6, 0.2]]))
    assert Tournament().select(lost).pair_counts == {"not_beaten": 1}, "1 beats 0"
    never = replace(held, utility=np.array([[0.9, 0.3, 0.1, 0.2]]))
    assert Tournament().select(never).pair_counts == {"unasked": 1}
