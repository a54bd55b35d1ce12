from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_flow.scorer.pairwise import bradley_terry, by_comparison

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
