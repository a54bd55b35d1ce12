"""A conversation for supervised fine-tuning: a question for each assistant turn, in every common layout."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.pairwise import row_of
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.types import Prompt
from tests.prompts.conftest import Write

ANSWER = {"answer": "chosen"}  # as `rlhf-flow sft` asks
CHAT = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"), ("assistant", "So.")]


def messages(chat: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in chat]


def opened(path: str, tokenizer: PreTrainedTokenizerFast, columns: dict | None = None, **keys: object) -> PromptSet:
    named = Columns(candidates=ANSWER, every_turn=True, **(columns or {}))
    return Jsonl(path=path, columns=named, **({"batch": 1, "held_out": 0} | keys)).open(tokenizer, 0)


def learned(prompts: tuple[Prompt, ...]) -> list[tuple[list[tuple[str, str]], str]]:
    """The context and the answer of each."""
    return [([(one.role, one.content) for one in each.messages], each.candidates["answer"].text) for each in prompts]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": messages(CHAT)},
        {"conversations": [
            {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text} for role, text in CHAT
        ]},
        {"prompt": messages(CHAT[:-1]), "completion": messages(CHAT[-1:])},
        {"prompt": messages(CHAT[:-1]), "completion": "So."},
    ],
    ids=["messages", "sharegpt", "completion of messages", "completion"],
)  # fmt: skip
def test_every_assistant_turn_is_an_answer_to_the_turns_before_it(
    row: dict, write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = opened(write([row]), tokenizer)
    assert learned(prompts.training) == [(CHAT[:2], "Hello"), (CHAT[:4], "So.")]
    assert [row_of(prompt.id) for prompt in prompts.training] == ["row-1", "row-1"]
    text = tokenizer.decode(prompts.training[1].tokens + prompts.training[1].candidates["answer"].tokens)
    assert text == tokenizer.apply_chat_template(messages(CHAT), tokenize=False)  # as the model will see it


def test_instructions_with_an_input_and_texts_are_one_turn(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    alpaca = write([{"instruction": "Add.", "input": "1 + 1", "output": "2"}], "alpaca.jsonl")
    assert learned(opened(alpaca, tokenizer).training) == [([("user", "Add.\n\n1 + 1")], "2")]
    texts = write([{"prompt": "Why?", "completion": "So."}, {"prompt": "Why not?", "completion": "No."}])
    prompts = opened(texts, tokenizer)
    assert learned(prompts.training)[0] == ([("user", "Why?")], "So.")
    assert "read as completion" in prompts.summary


def test_an_undesirable_completion_is_not_learned(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": f"{at}?", "completion": "So.", "label": at != 1} for at in range(3)]
    with pytest.raises(ValueError, match=r"line 2: expected a column 'chosen'"):
        opened(write(rows), tokenizer)
    assert len(opened(write(rows), tokenizer, malformed="drop").training) == 2


def test_turns_of_a_conversation_are_held_out_together(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"messages": messages([*CHAT[1:4], ("assistant", f"So {at}.")])} for at in range(3)]
    rows += [{"messages": messages([("user", f"{at}?"), *CHAT[2:]])} for at in range(9)]
    prompts = opened(write(rows), tokenizer, held_out=4)
    sides = [{row_of(prompt.id) for prompt in side} for side in (prompts.training, prompts.held_out())]
    assert not sides[0] & sides[1] and len(sides[1]) == 4
    assert len(prompts.held_out()) == 8
    first = {f"row-{at}" for at in (1, 2, 3)}  # they begin with the same turn
    assert first <= sides[0] or first <= sides[1]


def test_a_long_answer_is_refused_or_dropped(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write([{"prompt": "Why?", "completion": "So. " * 30}, {"prompt": "Why not?", "completion": "No."}])
    with pytest.raises(ValueError, match=r"line 1: an answer may have prompts\.columns\.answer_tokens=20 tokens"):
        opened(path, tokenizer, {"answer_tokens": 20})
    prompts = opened(path, tokenizer, {"answer_tokens": 20}, too_long="drop")
    assert [answer for _, answer in learned(prompts.training)] == ["No."] and prompts.counts["too_long_dropped"] == 1


def test_turns_need_one_answer_and_a_template_its_place(write: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write([{"prompt": "Why?", "chosen": "So.", "rejected": "No."}])
    columns = Columns(candidates=ANSWER | {"other": "rejected"}, every_turn=True)
    with pytest.raises(ValueError, match=r"one answer, and prompts\.columns\.candidates names answer, other"):
        Jsonl(path=path, columns=columns, batch=1, held_out=0).open(tokenizer, 0)
    with pytest.raises(ValueError, match=r"prompts\.columns\.template='Q:': it must hold \{prompt\}"):
        Columns(template="Q:")
