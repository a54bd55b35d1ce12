"""Two answers as a question: in both orders, with the labels of the row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.pairwise import Compare, row_of
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.tokenization.pairwise_prompt import TEMPLATE
from rlhf_flow.types import Message
from tests.support.tokenizer import tokenizer

COLUMNS = Columns(candidates={"first": "chosen", "second": "rejected"})


def opened(folder: Path, *rows: Mapping[str, object], **fields: object) -> PromptSet:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"path": str(path), "columns": COLUMNS, "compare": Compare(), "batch": 2, "held_out": 0, **fields}
    return Jsonl(**given).open(tokenizer(), 0)  # type: ignore[arg-type]


def row(number: int) -> dict[str, object]:
    return {"prompt": f"Say {number}.", "chosen": f"{number}!", "rejected": "No.", "p": 0.75}


def test_a_row_is_two_questions_whose_letters_change_sides(tmp_path: Path) -> None:
    forth, back = opened(tmp_path, row(1)).training
    words = tokenizer()
    for prompt, first, second in ((forth, "1!", "No."), (back, "No.", "1!")):
        question = TEMPLATE.format(conversation="user: Say 1.", first=first, second=second)
        chat = [{"role": "user", "content": question}]
        text = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert list(prompt.tokens) == words(text, add_special_tokens=False)["input_ids"]
        assert prompt.messages == (Message("user", "Say 1."),) and prompt.meta == {"p": 0.75}
        assert {name: one.text for name, one in prompt.candidates.items()} == {"first": "1!", "second": "No."}
    letter = {name: tuple(words(name, add_special_tokens=False)["input_ids"]) for name in "AB"}
    assert [forth.candidates[name].tokens for name in ("first", "second")] == [letter["A"], letter["B"]]
    assert [back.candidates[name].tokens for name in ("first", "second")] == [letter["B"], letter["A"]]
    assert (row_of(forth.id), row_of(back.id)) == ("row-1", "row-1") and forth.id != back.id


def test_both_orders_are_on_the_same_side_and_on_that_of_the_row_alone(tmp_path: Path) -> None:
    rows = [row(number) for number in range(20)]
    asked, alone = (opened(tmp_path, *rows, held_out=6, compare=compare) for compare in (Compare(), None))
    assert len(asked.kept) == 12 and len(asked.training) == 28
    assert {row_of(prompt.id) for prompt in asked.kept} == {prompt.id for prompt in alone.kept}
    assert asked.counts["rows"] == 20 and asked.counts["repeated"] == 0


def test_two_equal_answers_are_no_question(tmp_path: Path) -> None:
    dealt = opened(tmp_path, row(1), row(2) | {"chosen": "No."})
    assert {row_of(prompt.id) for prompt in dealt.training} == {"row-1"}
    assert dealt.counts["identical"] == 1


def test_what_is_too_long_is_cut_dropped_or_refused(tmp_path: Path) -> None:
    long = row(2) | {"prompt": "Say 2 " + 200 * "and on "}
    dropped = opened(tmp_path, row(1), long, max_tokens=400, too_long="drop")
    assert len(dropped.training) == 2 and dropped.counts["too_long_dropped"] == 1
    cut = opened(tmp_path, row(1), long, max_tokens=400, too_long="cut")
    assert len(cut.training) == 4 and cut.counts["too_long_cut"] == 1 and cut.longest <= 400
    with pytest.raises(ValueError, match=r"line 2: expected a question of at most prompts.max_tokens=400 tokens"):
        opened(tmp_path, row(1), long, max_tokens=400)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"template": "{first} or {second}?"}, r"prompts.compare.template must be a text with {conversation}"),
        ({"turn": "{who}"}, r"prompts.compare.turn must be"),
        ({"second": "A"}, r"prompts.compare.second must be another word than prompts.compare.first, got 'A'"),
    ],
)
def test_a_question_that_cannot_be_put_is_refused(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Compare(**fields)


def test_what_only_the_tokenizer_shows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts.compare.first must be one token of"):
        opened(tmp_path, row(1), compare=Compare(first="Yes", second="B"))
    with pytest.raises(
        ValueError, match=r"prompts.max_tokens must be >= \d+, which prompts.compare.template takes alone"
    ):
        opened(tmp_path, row(1), max_tokens=20)
    with pytest.raises(ValueError, match=r"takes two answers to each prompt, and prompts.columns.candidates names fi"):
        opened(tmp_path, row(1), columns=Columns(candidates={"first": "chosen"}))
