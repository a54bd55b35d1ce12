from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.metrics.annotator_agreement import agreement

VERDICTS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=4), max_size=12)


def test_the_alpha_of_the_paper() -> None:
    """Krippendorff 2011, section C: nominal data of four observers, with missing values; alpha = 0.743."""
    table = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    units = [[float(said) for said in column if said != "."] for column in zip(*map(str.split, table), strict=True)]
    found = agreement(units)
    assert found is not None
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.pairs == 11, "what one observer alone has seen is not shared"


def test_the_share_is_the_mean_over_pairs_of_two_people_who_agree() -> None:
    found = agreement([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0, 0.0], [0.5]])
    assert found is not None
    assert found.pairs == 3
    assert found.share == pytest.approx((1 + 0 + 1 / 3) / 3)


def test_there_is_none_where_nothing_is_shared_and_no_alpha_where_nobody_ever_differs() -> None:
    assert agreement([[1.0], [], [0.0]]) is None
    same = agreement([[1.0, 1.0], [1.0, 1.0]])
    assert same is not None and (same.share, same.alpha) == (1.0, None)


@given(VERDICTS, st.integers(0, 99))
def test_neither_the_order_of_people_nor_of_pairs_matters(units: list[list[float]], seed: int) -> None:
    found, shuffled = agreement(units), [random.Random(seed).sample(unit, len(unit)) for unit in reversed(units)]
    again = agreement(shuffled)
    assert (found is None) == (again is None)
    if found is not None and again is not None:
        assert 0 <= found.share <= 1 and again.share == pytest.approx(found.share)
        assert again.alpha == pytest.approx(found.alpha) and (found.alpha is None or found.alpha <= 1)
