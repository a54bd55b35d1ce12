"""Conversations in groups that are tokenised while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

import pytest

from rlhf_flow.scorer.models.reader import Reader, cut_front
from rlhf_flow.scorer.pairwise import prompts_and_responses
from rlhf_flow.scorer.token_batches import Tokens
from rlhf_flow.types import Message, Prompt
from tests.scorer.conftest import rollouts


def rendered(messages: Sequence[Message], answer: str) -> str:
    return answer


def encoded(texts: list[str]) -> list[list[int]]:
    return [list(map(ord, text)) for text in texts]


READER = Reader(rendered, encoded, longest=8)
ANSWERS = [["dddd", "a", "bb"], ["a", "ccc", "e" * 9]]


def run(reader: Reader, *answers: Sequence[str], characters: int | None) -> tuple[dict[str, str], list[list[Tokens]]]:
    """The output for each response, and the groups that ran."""
    groups: list[list[Tokens]] = []

    def text(rows: list[Tokens]) -> list[str]:
        groups.append(rows)
        return ["".join(map(chr, row)) for row in rows]

    outputs, _ = reader.outputs(prompts_and_responses(rollouts(*answers)), text, characters=characters)
    return outputs, groups


def test_each_response_gets_the_output_for_its_text() -> None:
    for characters in (None, 1, 30, 1000):
        outputs, groups = run(READER, *ANSWERS, characters=characters)
        assert list(outputs.values()) == ["dddd", "a", "bb", "a", "ccc", "e" * 8]
        assert all(rows == sorted(rows, key=len) for rows in groups)


def test_equal_conversations_run_once_in_whichever_groups_they_are() -> None:
    for characters in (None, 1):
        _, groups = run(READER, ["a", "a", "a"], ["b", "b", "a"], characters=characters)
        assert sum(map(len, groups)) == 2


def test_counts_are_of_distinct_rows_and_of_truncated_responses() -> None:
    asked = prompts_and_responses(rollouts(["a", "e" * 9], ["a", "e" * 9]))
    _, counts = READER.outputs(asked, lambda rows: rows, characters=1)
    assert counts == {"judge/queries": 2, "judge/truncated": 2}


def test_the_order_of_the_prompts_changes_no_group() -> None:
    asked = prompts_and_responses(rollouts(*ANSWERS))
    groups: list[list[Tokens]] = []
    for order in (asked, asked[::-1]):
        READER.outputs(order, lambda rows: groups.append(rows) or rows, characters=40)
    assert len(groups) == 6
    assert groups[:3] == groups[3:]


def test_the_next_group_is_tokenised_while_one_runs() -> None:
    tokenised = Event()

    def encode(texts: list[str]) -> list[list[int]]:
        if "long answer" in texts:
            tokenised.set()
        return encoded(texts)

    def wait(rows: list[Tokens]) -> list[Tokens]:
        assert tokenised.wait(10), "the second group waits for the first one's output"
        return rows

    asked = prompts_and_responses(rollouts(["short", "long answer"]))
    Reader(rendered, encode, longest=99).outputs(asked, wait, characters=1)


def test_without_conversations_nothing_runs() -> None:
    assert READER.outputs([], lambda rows: [], characters=1) == ({}, {"judge/queries": 0, "judge/truncated": 0})


def test_a_response_that_cannot_be_rendered_is_named() -> None:
    def refuse(messages: Sequence[Message], answer: str) -> str:
        raise ValueError("no system role")

    prompt, (response,) = Prompt("q", (), ()), rollouts(["a"]).responses[0]
    with pytest.raises(ValueError, match="response '1/policy/0/q0': no system role"):
        Reader(refuse, encoded, longest=8).views([(prompt, response)])


def test_the_front_is_cut_but_for_bos() -> None:
    assert cut_front((1, 5, 6, 7), 3) == (1, 6, 7)
    assert cut_front((1, 5, 6), 3) == (1, 5, 6)
    assert cut_front((1, 5, 6), 2) == (1, 6)
