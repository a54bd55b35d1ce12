from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.llm.marks import marks
from rlhf_flow.scorer.llm.parse_reply import Reply, preference, verdict

FILES = Path(__file__).parent
VERDICTS = [json.loads(line) for line in (FILES / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()]
RUBRICS = [json.loads(line) for line in (FILES / "rubrics.jsonl").read_text(encoding="utf-8").splitlines()]


def shown(case: dict[str, object]) -> str:
    return str(case["reply"])[:40]


@pytest.mark.parametrize("case", VERDICTS, ids=shown)
def test_a_reply_says_what_it_says_or_nothing_and_never_the_opposite(case: dict[str, object]) -> None:
    """Replies of real judge models, and neighbours of each kind; `first_wins` is null for an abstention."""
    said = verdict(str(case["reply"]))
    assert said == case["first_wins"]


def test_swapping_the_letters_turns_a_verdict_round() -> None:
    """What is read of A is read of B: no side is read more easily than the other."""
    named = re.compile(r"[12]|first|second|_[ab]\b|\([ab]\)|\bone\b|第|\bA (?:and|tie|draw)", re.IGNORECASE)
    for reply in (case["reply"] for case in VERDICTS if not named.search(case["reply"])):
        swapped = re.sub(r"(?<![A-Za-z])[AB](?![A-Za-z])", lambda side: "B" if side[0] == "A" else "A", reply)
        before = verdict(reply)
        assert swapped == reply or verdict(swapped) == (None if before is None else 1 - before), swapped


@pytest.mark.parametrize(
    ("text", "worth"),
    [("A", 1.0), ("A\n\nAnswer A is", 1.0), ('{"verdict": "B", "reason": "A is', 0.0), ("[[A]] at first. But", None),
     ("Answer A is better at first, but", None), ("A is short. Verdict: A is", None), ("<think>A", None)],
)  # fmt: skip
def test_of_a_cut_reply_only_its_beginning_counts(text: str, worth: float | None) -> None:
    assert preference(Reply(text, cut=True)) == worth


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
    return marks(text, ("helpful", "harmless"), low=1, high=10)


@pytest.mark.parametrize("case", RUBRICS, ids=shown)
def test_marks_are_read_in_the_forms_that_judges_write(case: dict[str, object]) -> None:
    assert read(str(case["reply"])) == case["marks"]


@pytest.mark.parametrize(
    "text", ["{" * 5000, '{"a":' * 1500, "[" * 5000, "[[A]] " * 2000, "Verdict: " * 2000, "<think>" * 3000]
)
def test_a_reply_that_goes_wild_is_read_in_no_time(text: str) -> None:
    began = time.process_time()
    assert read(text) is None
    verdict(text)
    assert time.process_time() - began < 2


@given(
    st.dictionaries(st.sampled_from(["helpful", "harmless", "more"]), st.one_of(st.floats(), st.integers(), st.text()))
)
def test_marks_are_in_range_or_none(held: dict[str, object]) -> None:
    said = read(json.dumps(held))
    assert said is None or (said.keys() == {"helpful", "harmless"} and all(1 <= mark <= 10 for mark in said.values()))
