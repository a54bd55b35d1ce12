"""Two ways to read a response: what is packed, and where a template's answer ends."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.learner.batching import Row, pack
from rlhf_flow.learner.readout import PolicyReadout, RewardReadout, check_view, tail_of
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.tokenization.chat_template import chat_tokens
from rlhf_flow.types import Candidate, Message, Prompt
from rlhf_flow.weights.source import InMemoryWeights
from tests.support.tokenizer import CHAT_WITH_BOS, tokenizer

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING = CHATML.replace("{{ m.content }}", "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}")


def row(prompt: int, tokens: int) -> Row:
    return Row(np.arange(prompt, dtype=np.int32), 100 + np.arange(tokens, dtype=np.int32))


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=5),
    st.integers(1, 4),
    st.lists(st.integers(200, 300), max_size=2),
)
def test_a_head_reads_the_last_token_of_each_row(shapes: list[tuple[int, int]], outputs: int, tail: list[int]) -> None:
    rows = [row(*shape) for shape in shapes]
    reading = RewardReadout(Head(outputs), tuple(tail))
    packed = reading.pack(rows)
    whole = [[*one.prompt, *one.tokens, *tail] for one in rows]
    assert packed.tokens.flatten()[packed.at].tolist() == [tokens[-1] for tokens in whole]
    for r, tokens in enumerate(whole):
        assert packed.tokens[r, : len(tokens)].tolist() == tokens
    assert packed.mask.shape == (len(rows), outputs) and packed.mask.all()
    assert [reading.width(one) for one in rows] == [outputs] * len(rows)


def test_a_policy_reads_every_token() -> None:
    rows = [row(2, 3), row(1, 5)]
    np.testing.assert_array_equal(PolicyReadout().pack(rows).at, pack(rows).at)
    assert [PolicyReadout().width(one) for one in rows] == [3, 5]
    assert PolicyReadout().generates and not RewardReadout(Head(1)).generates


def test_weights_in_memory_are_taken_as_they_are() -> None:
    state = {"score.weight": torch.ones(1, 2)}
    assert RewardReadout(Head(1)).weights(InMemoryWeights(state)).load() == state


@pytest.mark.parametrize(("template", "tail"), [(CHAT_WITH_BOS, ""), (CHATML, "\n"), (THINKING, ""), (None, "")])
def test_the_tail_is_what_the_template_writes_behind_eos(template: str | None, tail: str) -> None:
    made = tokenizer(template=template)
    assert made.decode(list(tail_of(made))) == tail


@pytest.mark.parametrize("template", [CHAT_WITH_BOS, CHATML])
def test_prompt_answer_and_tail_are_what_a_judge_renders(template: str) -> None:
    made = tokenizer(template=template)
    asked, answer = Message("user", "How many cats?"), "They are 3."
    ours = [
        *chat_tokens(made, [asked], reply=True),
        *made(answer, add_special_tokens=False)["input_ids"],
        made.eos_token_id,
        *tail_of(made),
    ]
    assert ours == chat_tokens(made, [asked, Message("assistant", answer)], reply=False)


def test_a_head_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner.head.outputs must be >= 0, got -1.*0 is a policy"):
        Head(-1)
    with pytest.raises(ValueError, match=r"learner.head.seed must be >= 0"):
        Head(1, seed=-1)


@pytest.mark.parametrize(("template", "refused"), [(CHAT_WITH_BOS, False), (CHATML, False), (THINKING, True)])
def test_answers_that_a_judge_would_read_otherwise_are_refused(template: str, refused: bool) -> None:
    made = tokenizer(template=template)
    asked = Message("user", "How many cats?")
    answer = Candidate("Three.", (*made("Three.", add_special_tokens=False)["input_ids"], made.eos_token_id))
    prompt = Prompt("q", (asked,), tuple(chat_tokens(made, [asked], reply=True)), candidates={"first": answer})
    source = PromptSet((prompt,), (), size=1, seed=0, counts={})
    with pytest.raises(ValueError, match=r"other tokens in 1 of 1 chats") if refused else nullcontext():
        check_view(made, source)


def test_a_judge_needs_a_chat_template() -> None:
    with pytest.raises(ValueError, match=r"prompts.format=chat needs a tokenizer with a chat template"):
        check_view(tokenizer(template=None), PromptSet((Prompt("q", (), ()),), (), size=1, seed=0, counts={}))
