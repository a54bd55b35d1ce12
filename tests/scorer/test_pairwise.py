from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_flow.scorer.pairwise import both_views, bradley_terry, by_comparison, matches
from tests.scorer.conftest import rollouts

UTILITY = arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 5)), elements=st.floats(-1e4, 1e4, width=32))


@given(UTILITY)
def test_bradley_terry_is_the_logistic_of_the_difference(utility: np.ndarray) -> None:
    wins = bradley_terry(utility)
    gap = utility.astype(np.float64)[:, :, None] - utility.astype(np.float64)[:, None, :]
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(wins, 1 / (1 + np.exp(-gap)), rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(wins + wins.swapaxes(1, 2), 1, atol=1e-6)


@given(UTILITY)
def test_comparison_is_one_half_or_none(utility: np.ndarray) -> None:
    wins = by_comparison(utility)
    more, less = utility[:, :, None] > utility[:, None, :], utility[:, :, None] < utility[:, None, :]
    np.testing.assert_array_equal(wins, np.where(more, 1, np.where(less, 0, 0.5)))


def test_by_hand() -> None:
    utility = np.log(np.array([[3.0, 1.0]]))
    np.testing.assert_allclose(bradley_terry(utility)[0], [[0.5, 0.75], [0.25, 0.5]], atol=1e-7)


def test_every_two_texts_meet_once_in_the_order_of_their_texts() -> None:
    asked = rollouts(["b", "a", "b", "c"], ["z", "z", "z", "z"])
    met = matches(asked)
    assert [(match.b, match.first.text, match.second.text) for match in met] == [
        (0, "a", "b"),
        (0, "a", "c"),
        (0, "b", "c"),
    ]
    assert str(met[0]) == "responses '1/policy/1/q0' and '1/policy/0/q0'"
    assert [str(match) for match in matches(rollouts([]))] == []


def test_prompts_with_different_numbers_of_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="'q1' has 1 responses, others in its round have 2"):
        matches(rollouts(["a", "b"], ["c"]))


@given(st.permutations("aabcd"), st.data())
def test_the_views_are_of_texts_and_add_up_exactly(texts: list[str], data: st.DataObject) -> None:
    share = st.one_of(st.floats(0, 1), st.just(math.nan))
    said = {pair: data.draw(share) for pair in ("ab", "ac", "ad", "bc", "bd", "cd")}
    asked = rollouts(texts)
    utility, wins = both_views(asked, [said[one.first.text + one.second.text] for one in matches(asked)])
    assert utility.dtype == wins.dtype == np.float32
    known = ~np.isnan(wins)
    assert (known == known.swapaxes(1, 2)).all()
    assert (wins + wins.swapaxes(1, 2))[known].tolist() == [1.0] * known.sum()
    by_text = {}
    for i, first in enumerate(texts):
        by_text.setdefault(first, utility[0, i])
        assert utility[0, i] == by_text[first]
        for j, second in enumerate(texts):
            if first == second:
                assert wins[0, i, j] == 0.5
            elif first < second:
                np.testing.assert_allclose(wins[0, i, j], said[first + second], atol=1e-7)
    np.testing.assert_allclose(utility[0], np.nanmean(wins[0].astype(np.float64), axis=-1), atol=1e-7)


def test_the_order_of_the_answers_changes_no_bit() -> None:
    generator = np.random.default_rng(0)
    texts = [f"{k:02d}" for k in range(9)]
    said = {(a, b): generator.random() for a in texts for b in texts if a < b}

    def views(order: list[str]) -> tuple[np.ndarray, np.ndarray]:
        asked = rollouts(order)
        return both_views(asked, [said[one.first.text, one.second.text] for one in matches(asked)])

    forth, back = views(texts), views(texts[::-1])
    np.testing.assert_array_equal(forth[0], back[0][:, ::-1])
    np.testing.assert_array_equal(forth[1], back[1][:, ::-1, ::-1])
