from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.shipped import exact_answer, in_format, length, numeric_answer, occurrences, valid_json

Value = str | int | None


def exact(answer: str, gold: Value = "Paris", **arguments: object) -> float | None:
    return exact_answer((), answer, {"answer": gold}, **arguments)


def numeric(answer: str, gold: Value, **arguments: object) -> float | None:
    return numeric_answer((), answer, {"answer": gold}, **arguments)


# -- shape ------------------------------------------------------------------------------------------------------------

THINK = r"(?s)<think>.*</think>\s*<answer>.*</answer>"


@pytest.mark.parametrize(
    ("answer", "where", "value"),
    [
        ("<think>a\nb</think>\n<answer>1</answer>", "whole", 1),
        ("<think>a\nb</think>\n<answer>1</answer>", "part", 1),
        ("Well: <think>a</think><answer>1</answer>", "whole", 0),
        ("Well: <think>a</think><answer>1</answer>", "part", 1),
        ("<think>a</think>", "part", 0),
    ],
)
def test_a_format_is_of_the_whole_answer_or_of_a_part(answer: str, where: str, value: float) -> None:
    assert in_format((), answer, {}, pattern=THINK, where=where) == value


@pytest.mark.parametrize(("most", "value"), [(None, 3), (2, 2), (1, 1)])
def test_occurrences_are_counted_up_to_a_number(most: int | None, value: float) -> None:
    assert occurrences((), "sorry, Sorry. sorryness so sorry", {}, pattern=r"(?i)sorry\b", most=most) == value
    assert occurrences((), "fine", {}, pattern="sorry", most=most) == 0


@pytest.mark.parametrize("function", [in_format, occurrences])
def test_a_search_that_would_never_end_is_refused(function) -> None:
    with pytest.raises(ValueError, match=r"in an answer of 61 characters took longer than `seconds`"):
        function((), "a" * 60 + "b", {}, pattern="(a|aa)+$", seconds=0.02)


@pytest.mark.parametrize(
    ("answer", "arguments", "value"),
    [
        ("abc", {}, 0),
        ("", {"least": 2}, -2),
        ("ab", {"least": 2, "most": 2}, 0),
        ("abcde", {"most": 2}, -3),
        ("one two  three\n", {"most": 2, "unit": "words"}, -1),
        ("日本語", {"most": 3}, 0),
    ],
)
def test_length_is_the_distance_to_a_range(answer: str, arguments: dict[str, object], value: float) -> None:
    assert length((), answer, {}, **arguments) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 2]), st.sampled_from(["", " ", "\n\t"]))
def test_what_is_written_as_json_is_json(value: object, indent: int | None, space: str) -> None:
    text = space + json.dumps(value, indent=indent) + space
    assert valid_json((), text, {}) == 1
    assert valid_json((), text + "x", {}) == 0
    keys = list(value) if isinstance(value, dict) else ["a"]
    assert valid_json((), text, {}, required=keys) == isinstance(value, dict)
    assert valid_json((), text, {}, required=[*keys, "not there"]) == 0


@pytest.mark.parametrize(
    "answer", ["", "{'a': 1}", "NaN", "[Infinity]", "{a: 1}", "[1,]", "```json\n{}\n```", "[" * 10**6]
)
def test_what_is_no_json_is_none(answer: str) -> None:
    assert valid_json((), answer, {}) == 0


def test_a_long_number_is_json_and_is_not_converted() -> None:
    assert valid_json((), "9" * 10**5, {}) == 1


# -- gold answers as texts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "arguments", "value"),
    [
        ("Paris", {}, 1),
        (" Paris\n", {}, 1),
        (" Paris\n", {"ignore": []}, 0),
        ("paris", {}, 0),
        ("paris", {"ignore": ["case"]}, 1),
        ("Paris.", {}, 0),
        ("The Paris!", {"ignore": ["punctuation", "articles", "space"]}, 1),
        ("Theparis", {"ignore": ["articles", "case"]}, 0),
        ("Ｐａｒｉｓ", {"ignore": ["unicode"]}, 1),
        ("It is Paris", {}, 0),
        (r"So \boxed{Rome}, no, \boxed {Paris}.", {"where": "boxed"}, 1),
        (r"\boxed{Paris", {"where": "boxed"}, 0),
        ("Paris", {"where": "boxed"}, 0),
        ("Rome #### Lyon #### Paris", {"where": "marker"}, 1),
        ("Paris", {"where": "marker"}, 0),
        ("Answer: Paris", {"where": "marker", "marker": "Answer:"}, 1),
    ],
)
def test_an_exact_answer_is_the_gold_one_but_for_what_is_ignored(answer: str, arguments, value: float) -> None:
    assert exact(answer, **arguments) == value


def test_a_box_ends_with_the_brace_that_closes_it() -> None:
    assert exact(r"\boxed{\frac{1}{2} \} {} \{} and more }", r"\frac{1}{2} \} {} \{", where="boxed") == 1


# -- gold answers as numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("The answer is 12.", "12"),
        ("12", 12),
        ("first 3, then 7", "7"),
        ("7.0", "7"),
        ("x=-3", "-3"),
        ("−3", "-3"),
        ("5-3", "3"),
        (".5", "1/2"),
        ("1,234.5 dollars", "1234.5"),
        ("$1,234", "1234"),
        (r"-\$1{,}234", "-1234"),
        (r"1\,234\,567", "1,234,567"),
        (r"100,\,200", "200"),
        ("1, 234", "234"),
        ("3/4", "0.75"),
        ("3 / 4", r"\frac{3}{4}"),
        (r"-\dfrac{3}{4}", "-3/4"),
        (r"\frac{-3}{4}", "-0.75"),
        (r"\frac{1}{3}", "1/3"),
        ("1.5e-3", "0.0015"),
        ("2E3", "2000"),
        (r"2 \times 10^{3}", "2000"),
        ("2x10^-3", "1/500"),
        ("50%", "1/2"),
        ("50%", "0.5"),
        (r"50\%", "50%"),
        ("50%", "50"),
        ("50", "50 %"),
        ("1/2", "50%"),
        (r"90^\circ", "90"),
        ("答案是5", "5"),
        ("72 in 2^{10} bits", "72"),
        ("72 of H2O, x_1 and 1/0", "72"),
        ("72", r"$x = 72\text{ apples}$."),
    ],
)
def test_numbers_are_read_as_they_are_written(answer: str, gold: Value) -> None:
    assert numeric(answer, gold) == 1


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", "0"),
        ("none", "0"),
        ("0.3333333333333333", "1/3"),
        ("12 or 13", "12"),
        ("5000%", "50%"),
        ("0.5%", "50%"),
        ("-5", "5"),
        ("10^3", "10"),
        ("2^{10}", "2"),
        ("2 ^ 10", "10"),
        ("1e999999999", "1"),
        ("9" * 10**5, "9"),
        ("__import__('os').getpid() or 5 ** 2", "25"),
    ],
)
def test_another_number_or_none_is_wrong(answer: str, gold: Value) -> None:
    assert numeric(answer, gold) == 0


@pytest.mark.parametrize(
    ("answer", "where", "value"),
    [
        (r"5 \boxed{7} 6", "boxed", 1),
        (r"\boxed{x = 7 \text{ m}^{2}}", "boxed", 1),
        (r"\boxed{6, 7}", "boxed", 0),
        (r"\boxed{\sqrt{7}}", "boxed", 0),
        (r"\boxed{7\pi}", "boxed", 0),
        ("7", "boxed", 0),
        ("5 #### 6 #### 7 or 8", "marker", 1),
        ("7", "marker", 0),
        ("#### none", "marker", 0),
    ],
)
def test_the_number_is_where_it_was_asked_for(answer: str, where: str, value: float) -> None:
    assert numeric(answer, "7", where=where) == value


@pytest.mark.parametrize(
    ("answer", "gold", "arguments", "value"),
    [
        ("3.14", "3.1", {"abs_tol": 0.04}, 1),
        ("3.15", "3.1", {"abs_tol": 0.04}, 0),
        ("0.4", "0.1", {"abs_tol": 0.3}, 1),  # 0.3 of decimals, though 0.4 - 0.1 is more in floats
        ("101", "100", {"rel_tol": 0.01}, 1),
        ("-101", "-100", {"rel_tol": 0.01}, 1),
        ("102", "100", {"rel_tol": 0.01}, 0),
        ("0.001", "0", {"rel_tol": 0.5}, 0),
        ("51%", "50%", {"abs_tol": 0.01}, 1),
        ("52%", "50%", {"abs_tol": 0.01}, 0),
    ],
)
def test_a_tolerance_is_absolute_or_a_share_of_the_gold_number(answer: str, gold: str, arguments, value) -> None:
    assert numeric(answer, gold, **arguments) == value


@given(
    st.fractions(max_denominator=10**4),
    st.sampled_from(["{0.numerator}/{0.denominator}", r"{1}\frac{{{2}}}{{{0.denominator}}}"]),
    st.sampled_from(["I say {}.", "${}$", "({})", "1. so\n2. x = {}", "{} apples"]),
)
def test_every_fraction_is_read_back_exactly(value: Fraction, written: str, said: str) -> None:
    text = written.format(value, "-" if value < 0 else "", abs(value.numerator))
    assert numeric(said.format(text), str(value)) == 1
    assert numeric(said.format(text), str(value + Fraction(1, 10**9))) == 0


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=3))
def test_thousands_and_powers_change_no_value(value) -> None:
    assert numeric(f"{value:,}", f"{value}") == 1
    assert numeric(f"{value:e}", f"{value}") == 1


@given(st.text(alphabet="019,.-+/%^e$x \\{}frac", max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    for where in ("last", "boxed", "marker"):
        assert numeric(text, "1", where=where) in (0, 1)
    assert numeric(text, text, without_gold="abstain") in (None, 1)


@pytest.mark.parametrize(
    "piece", ["1,111", "1 ", "1/", "\\frac{1", "1 x 10", "-", ",111", "\\boxed{", "{", "1e", "1^"], ids=repr
)
def test_the_time_grows_with_the_length_alone(piece: str) -> None:
    for where in ("last", "boxed", "marker"):  # a search that tried all ways would not end
        assert numeric(piece * 20_000, "2", where=where) == 0


# -- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [exact_answer, numeric_answer])
@pytest.mark.parametrize("meta", [{}, {"answer": None}])
def test_a_prompt_without_a_gold_answer_is_refused_or_passed_over(function, meta) -> None:
    with pytest.raises(ValueError, match=r"set prompts\.columns\.answer .* without_gold=abstain"):
        function((), "5", meta)
    assert function((), "5", meta, without_gold="abstain") is None


@pytest.mark.parametrize("gold", ["x + 1", "(1, 2)", "", "2^{10}", r"\sqrt{2}", "2x", "72 apples", "1/0"])
def test_a_gold_answer_that_is_not_one_number_is_refused_or_passed_over(gold: str) -> None:
    with pytest.raises(ValueError, match="the gold answer must be a number and nothing else, got"):
        numeric("5", gold)
    assert numeric("5", gold, without_gold="abstain") is None


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (in_format, {"pattern": "("}, r"pattern must be a regular expression, got '\('.*missing \)"),
        (in_format, {"pattern": "a", "where": "begin"}, "where must be whole or part, got 'begin'"),
        (occurrences, {"pattern": "a", "most": 0}, "most must be >= 1 or null, got 0"),
        (length, {"unit": "tokens"}, "unit must be characters or words, got 'tokens'"),
        (length, {"least": -1}, "least must be >= 0, got -1"),
        (length, {"least": 3, "most": 2}, "most must be >= least=3 or null, got 2"),
        (valid_json, {"required": "name"}, "required must be a list of keys, got 'name'"),
        (exact_answer, {"where": "last"}, "where must be one of whole, boxed, marker, got 'last'"),
        (exact_answer, {"ignore": ["cases"]}, "ignore must be one of unicode, .*, got 'cases'"),
        (exact_answer, {"without_gold": "skip"}, "without_gold must be one of refuse, abstain, got 'skip'"),
        (numeric_answer, {"where": "whole"}, "where must be one of last, boxed, marker, got 'whole'"),
        (numeric_answer, {"rel_tol": -0.1}, "rel_tol must be >= 0, got -0.1"),
        (numeric_answer, {"abs_tol": float("nan")}, "abs_tol must be >= 0, got nan"),
    ],
)
def test_an_argument_that_makes_no_sense_says_so(function, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        function((), "5", {"answer": "5"}, **arguments)
