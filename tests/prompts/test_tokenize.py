"""One BOS, whole templates, and prompts that are too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.parse import Question
from rlhf_flow.prompts.tokenize import Rendering
from rlhf_flow.types import Message
from tests.prompts.conftest import Write
from tests.support.tokenizer import CHAT, CHAT_WITH_BOS
from tests.support.tokenizer import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()


def asked(*messages: Message) -> Question:
    return Question(place="p.jsonl, line 1", id="q", messages=messages, answer=None, candidates={}, meta={}, left_out=0)


@pytest.mark.parametrize(
    ("template", "encode_adds_bos", "bos"),
    [
        (CHAT_WITH_BOS, True, 1),
        (CHAT_WITH_BOS, False, 1),
        (CHAT, True, 1),
        (CHAT, False, 0),
        ("<s>" + CHAT_WITH_BOS, True, 1),
    ],
)
def test_a_chat_has_one_bos_if_template_or_tokenizer_writes_one(template: str, encode_adds_bos: bool, bos: int) -> None:
    tokenizer = make_tokenizer(template=template, encode_adds_bos=encode_adds_bos)
    rendering = Rendering(tokenizer, "chat", system=None, max_tokens=100, too_long="refuse")
    _, tokens, _ = rendering.render(asked(Message("user", "Tell me a story")))
    assert tokens.count(tokenizer.bos_token_id) == bos
    body = "<|user|>Tell me a story</s><|assistant|>"
    assert tokenizer.decode(tokens[bos:]) == body and list(tokens[:bos]) == [tokenizer.bos_token_id] * bos


@pytest.mark.parametrize("encode_adds_bos", [True, False])
def test_a_plain_prompt_is_bos_and_text(encode_adds_bos: bool) -> None:
    tokenizer = make_tokenizer(template=None, encode_adds_bos=encode_adds_bos)
    rendering = Rendering(tokenizer, "plain", system=None, max_tokens=100, too_long="refuse")
    _, tokens, _ = rendering.render(asked(Message("user", "Once upon a")))
    assert tokenizer.decode(tokens) == "<s>Once upon a" and tokens.count(tokenizer.bos_token_id) == 1


def test_plain_refuses_a_chat() -> None:
    rendering = Rendering(TOKENIZER, "plain", system=None, max_tokens=100, too_long="refuse")
    with pytest.raises(ValueError, match=r"line 1: prompts.format=plain takes one user message, found 3"):
        rendering.render(asked(Message("user", "a"), Message("assistant", "b"), Message("user", "c")))


def test_a_tokenizer_without_template_is_refused_with_the_way_out(write: Write) -> None:
    with pytest.raises(ValueError, match=r"Fix: model.chat_template.file=FILE .*, or prompts.format=plain"):
        Jsonl(path=write([{"prompt": "a"}])).open(make_tokenizer(template=None), 0)


def test_a_template_that_refuses_the_messages_names_the_row(write: Write) -> None:
    template = "{% if messages[0].content == 'a' %}{{ raise_exception('no a here') }}{% endif %}" + CHAT
    with pytest.raises(ValueError, match=r"line 1: the chat template rejects .*no a here"):
        Jsonl(path=write([{"prompt": "a"}])).open(make_tokenizer(template=template), 0)


def test_the_system_message_goes_before_chats_that_have_none() -> None:
    rendering = Rendering(TOKENIZER, "chat", system="be kind", max_tokens=100, too_long="refuse")
    question, _, _ = rendering.render(asked(Message("user", "a")))
    assert question.messages == (Message("system", "be kind"), Message("user", "a"))
    own = asked(Message("system", "be brief"), Message("user", "a"))
    assert rendering.render(own)[0].messages == own.messages


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), st.integers(50, 90))
def test_a_cut_prompt_keeps_its_template_and_a_beginning_of_its_text(text: str, longest: int) -> None:
    rendering = Rendering(TOKENIZER, "chat", system="kind", max_tokens=longest, too_long="cut")
    whole = "x" + text + "word " * 60
    question, tokens, cut = rendering.render(asked(Message("user", whole)))
    assert cut and len(tokens) <= longest
    content = question.messages[-1].content
    assert whole.startswith(content) and content
    head, tail = f"<s><|system|>kind</s><|user|>{content}", "</s><|assistant|>"
    assert list(tokens) == TOKENIZER(head + tail, add_special_tokens=False)["input_ids"]


def test_as_much_is_kept_as_fits() -> None:
    rendering = Rendering(TOKENIZER, "chat", system=None, max_tokens=60, too_long="cut")
    _, tokens, _ = rendering.render(asked(Message("user", "x" * 500)))
    assert len(tokens) == 60  # x is one token; nothing merges


def test_what_cannot_be_cut_is_refused() -> None:
    rendering = Rendering(TOKENIZER, "chat", system="kind " * 50, max_tokens=40, too_long="cut")
    with pytest.raises(ValueError, match=r"line 1: the prompt cannot be cut to prompts.max_tokens=40"):
        rendering.render(asked(Message("user", "a word")))


def test_too_long_is_refused_cut_or_dropped_and_counted(write: Write) -> None:
    path = write([{"prompt": "short"}, {"prompt": "word " * 99}, {"prompt": "also short"}])

    def spec(too_long: str) -> Jsonl:
        return Jsonl(path=path, max_tokens=40, too_long=too_long, batch=2, held_out=0)

    with pytest.raises(ValueError, match=r"line 2: .*at most prompts.max_tokens=40 tokens, found \d+.*too_long=cut"):
        spec("refuse").open(TOKENIZER, 0)
    cut = spec("cut").open(TOKENIZER, 0)
    assert (cut.counts["rows"], cut.counts["training"], cut.counts["too_long_cut"]) == (3, 3, 1)
    assert all(len(prompt.tokens) <= 40 for prompt in cut.training)
    dropped = spec("drop").open(TOKENIZER, 0)
    assert (dropped.counts["training"], dropped.counts["too_long_dropped"]) == (2, 1)


def test_special_tokens_in_a_text_are_counted(write: Write) -> None:
    opened = Jsonl(path=write([{"prompt": "what is <s>?"}, {"prompt": "b"}]), batch=1, held_out=0).open(TOKENIZER, 0)
    assert opened.counts["special_tokens_in_text"] == 1
