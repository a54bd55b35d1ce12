"""What is remembered never reaches before the first round or past the present one, which is always there in full."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.protocols import Memory
from rlhf_flow.replay import All, Decay, Window

SHARES = st.lists(st.floats(0.01, 3), min_size=1, max_size=6)
MEMORIES = st.one_of(st.just(All()), st.integers(1, 50).map(Window), SHARES.map(Decay))


@given(memory=MEMORIES, round=st.integers(1, 200))
def test_the_oldest_comes_first_and_the_present_round_without_limit(memory: Memory, round: int) -> None:
    rounds = list(memory.rounds(round))
    assert rounds == list(range(rounds[0], round + 1))
    assert rounds[0] >= 1
    assert memory.rounds(round)[round] == math.inf
    assert all(share > 0 for share in memory.rounds(round).values())


def test_a_window_of_one_is_on_policy() -> None:
    assert Window().rounds(5) == {5: math.inf}


def test_a_window_grows_until_it_is_full() -> None:
    assert [list(Window(3).rounds(round)) for round in (1, 2, 3, 4)] == [[1], [1, 2], [1, 2, 3], [2, 3, 4]]


@given(size=st.integers(1, 50), round=st.integers(1, 200))
def test_a_window_is_the_newest_rounds_in_full(size: int, round: int) -> None:
    rounds = Window(size).rounds(round)
    assert len(rounds) == min(size, round)
    assert set(rounds.values()) == {math.inf}


def test_all_is_a_window_that_never_closes() -> None:
    assert All().rounds(3) == {1: math.inf, 2: math.inf, 3: math.inf}


def test_decay_takes_less_of_older_rounds() -> None:
    assert Decay().rounds(1) == {1: math.inf}
    assert Decay().rounds(2) == {1: 0.3, 2: math.inf}
    assert Decay().rounds(7) == {5: 0.15, 6: 0.3, 7: math.inf}


@given(shares=SHARES, round=st.integers(1, 200))
def test_the_share_of_a_round_is_that_of_its_age(shares: list[float], round: int) -> None:
    rounds = Decay(shares).rounds(round)
    assert len(rounds) == 1 + min(len(shares), round - 1)
    assert all(share == shares[round - past - 1] for past, share in rounds.items() if past != round)


def test_memories_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"replay\.size must be >= 1, got 0"):
        Window(0)
    with pytest.raises(ValueError, match=r"replay\.shares must hold at least one share, .* replay=window"):
        Decay([])
    for share in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"replay\.shares must be > 0, got"):
            Decay([0.3, share])
