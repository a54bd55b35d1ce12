"""Numbers and foreign text, as people read them."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.report.format import compact, number, short
from rlhf_flow.system.visible_text import clipped, visible


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, ".3f", "—"),
        (0.0, ".3f", "0.000"),
        (-0.0001, ".3f", "0.000"),
        (-1.5, ".1f", "−1.5"),
        (0.125, ".1%", "12.5%"),
        (float("nan"), ".3f", "NaN"),
        (float("-inf"), ".3f", "−∞"),
    ],
)
def test_number(value: float | None, form: str, text: str) -> None:
    assert number(value, form) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.5, "0.5"), (31.0, "31"), (27.52, "27.5"), (1234.0, "1,234"), (-3.1, "−3.1")]
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(9999.0, "9,999"), (10000.0, "10k"), (812345.0, "812k"), (-2.5e6, "−2.5M"), (3e9, "3G"), (0.25, "0.25")],
)
def test_compact(value: float, text: str) -> None:
    assert compact(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_short_is_near(value: float) -> None:
    read = float(short(value).replace("−", "-").replace(",", ""))
    assert math.isclose(read, value, rel_tol=0.06, abs_tol=6e-4)


@given(st.text(st.characters()))
def test_visible_text_holds_nothing_that_a_terminal_or_a_page_obeys(text: str) -> None:
    shown = visible(text)
    assert not [letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "Zs", "Mn"])))
def test_honest_text_is_left_alone(text: str) -> None:
    assert visible(text) == text


def test_clipped_says_what_is_missing() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("abcde", 3) == "abc… (2 more characters)"
