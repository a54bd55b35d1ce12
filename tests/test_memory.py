"""A window of rounds never reaches before the first round or past the present one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.memory import Window


def test_a_window_of_one_is_on_policy() -> None:
    assert Window().rounds(5) == (5,)


def test_a_window_grows_until_it_is_full() -> None:
    assert [Window(3).rounds(round) for round in (1, 2, 3, 4)] == [(1,), (1, 2), (1, 2, 3), (2, 3, 4)]


@given(size=st.integers(1, 50), round=st.integers(1, 200))
def test_it_is_the_newest_rounds_in_order(size: int, round: int) -> None:
    rounds = Window(size).rounds(round)
    assert rounds[-1] == round
    assert rounds == tuple(range(rounds[0], round + 1))
    assert len(rounds) == min(size, round)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory\.size must be >= 1, got 0"):
        Window(0)
