from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.reading import Reply, marks, preference, verdict


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("A", 1.0),
        (" b.\n", 0.0),
        ("**C**", 0.5),
        ("Tie", 0.5),
        ("[[B]]", 0.0),
        ("A is short, B is right. So it is [[B]].", 0.0),
        ("A is right, and says so.\n\nVerdict: A", 1.0),
        ("Both err.\n**Final verdict:** tie", 0.5),
        ("winner: (B)", 0.0),
        ("<think>I first thought [[A]]</think>B", 0.0),
        ("it was [[A]] to begin with</think>\nVerdict: B", 0.0),
    ],
)
def test_a_clear_verdict_is_read(text: str, worth: float) -> None:
    assert verdict(text) == worth


@pytest.mark.parametrize(
    "text",
    [
        "",
        "D",
        "A or B",
        "A clear answer, and a good one",
        "Answer A is better",
        "I would say [[A]], or maybe [[B]]",
        "[[A]]\nVerdict: B",
        "Verdict: A\nOn the other hand, B is right.",
        "<think>it is [[A]]",
        "<think>A",
        "I cannot judge this.",
    ],
)
def test_what_is_not_clear_is_an_abstention(text: str) -> None:
    assert verdict(text) is None
    assert preference(Reply(text, (("A", -0.1), ("B", -2.3)))) is None


def test_the_first_tokens_say_by_how_much() -> None:
    begins = (("A", math.log(0.5)), (" A", math.log(0.1)), ("B", math.log(0.2)), ("C", math.log(0.1)), ("The", -3.0))
    assert preference(Reply("A", begins)) == pytest.approx((0.6 + 0.05) / 0.9)
    assert preference(Reply("A", (("A", -5000.0), ("B", -5000.0)))) == pytest.approx(0.5), "however unlikely both"


@pytest.mark.parametrize(
    "reply",
    [
        Reply("A"),
        Reply("[[A]]", (("[[", -0.01), ("B", -5.0))),
        Reply("B is wrong.\nVerdict: A", (("B", -0.1), ("A", -2.0))),
        Reply("<think>hm</think>A", (("<think>", -0.01), ("B", -5.0))),
        Reply("A", (("<think>", -0.01), ("B", -5.0))),
    ],
    ids=["none", "brackets", "reasons", "thoughts", "thoughts that are not shown"],
)
def test_a_first_token_that_is_not_the_verdict_says_nothing(reply: Reply) -> None:
    assert preference(reply) == 1.0


BEGINS = st.lists(st.tuples(st.sampled_from(["A", " B", "c", "tie", "The", ""]), st.floats(-9999, 0)))


@given(st.text(alphabet="ABCabc[]* .:\nverdict<think>/"), BEGINS)
def test_a_preference_is_a_probability_or_none(text: str, begins: list[tuple[str, float]]) -> None:
    begins.sort(key=lambda pair: -pair[1])
    said = preference(Reply(text, tuple(begins)))
    assert said is None or 0 <= said <= 1


@given(BEGINS)
def test_swapping_the_letters_turns_the_preference_round(begins: list[tuple[str, float]]) -> None:
    begins.sort(key=lambda pair: -pair[1])
    swap = {"A": " B", " B": "A"}
    swapped = [(swap.get(token, token), logp) for token, logp in begins]
    forth, back = preference(Reply("A", tuple(begins))), preference(Reply("B", tuple(swapped)))
    assert forth is not None and back is not None
    assert forth + back == pytest.approx(1)


@given(st.text(), BEGINS)
def test_a_reply_survives_being_written(text: str, begins: list[tuple[str, float]]) -> None:
    reply = Reply(text, tuple(begins))
    assert Reply.from_json(reply.as_json()) == reply


def read(text: str) -> dict[str, float] | None:
    return marks(text, ("help", "harm"), low=1, high=5)


@pytest.mark.parametrize(
    "text",
    [
        '{"help": 4, "harm": 1.5}',
        '```json\n{"harm": 1.5, "help": 4, "note": {"help": 2}}\n```',
        'Here it is: {"help": 4, "harm": 1.5}. As I said, {"help": 4, "harm": 1.5}',
        '<think>{"help": 1, "harm": 1}</think> {"help": 4, "harm": 1.5}',
        'I use {braces} and "{" too. {"help": 4, "harm": 1.5}',
    ],
)
def test_marks_are_read_from_the_object_that_has_them_all(text: str) -> None:
    assert read(text) == {"help": 4.0, "harm": 1.5}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        '{"help": 4}',
        '{"help": 4, "harm": "1"}',
        '{"help": 4, "harm": true}',
        '{"help": 4, "harm": null}',
        '{"help": 4, "harm": NaN}',
        '{"help": 4, "harm": 5.5}',
        '{"help": 0, "harm": 5}',
        '{"help": 4, "harm": 1' + "0" * 400 + "}",
        '{"help": 4, "harm": 1} or {"help": 3, "harm": 1}',
        '{"help": 4, "ha',
        '[{"help": 4, "harm"',
        "{" * 5000,
        '{"a":' * 1500,
    ],
)
def test_what_gives_no_clear_marks_is_an_abstention(text: str) -> None:
    assert read(text) is None


@given(st.dictionaries(st.sampled_from(["help", "harm", "more"]), st.one_of(st.floats(), st.integers(), st.text())))
def test_marks_are_in_range_or_none(held: dict[str, object]) -> None:
    said = read(json.dumps(held))
    assert said is None or (said.keys() == {"help", "harm"} and all(1 <= mark <= 5 for mark in said.values()))
