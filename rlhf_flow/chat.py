"""Messages as tokens: in a tokenizer's own chat template or plain, and always with one BOS.

The policy's prompts and the judges' views go through the same functions, so that neither can grow a second BOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_flow.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS = ("chat", "plain")


def require_template(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """Raise ValueError where a chat is asked of a tokenizer that has no chat template; `key` is the way out."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{key}=chat needs a tokenizer with a chat template, and that of {tokenizer.name_or_path!r} has none. "
            f"Use {key}=plain, or save a chat template with the tokenizer."
        )


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply: bool) -> list[int]:
    """The chat in the tokenizer's template; with `reply` it ends where the assistant begins to speak.

    One BOS where the template writes it or the tokenizer's own encoding does, none for tokenizers that know none.
    Raises ValueError where the template refuses the messages.
    """
    from jinja2.exceptions import TemplateError

    chat = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=reply)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    tokens = encode(tokenizer, str(text))
    wanted = tokens[:1] == [tokenizer.bos_token_id] or adds_bos(tokenizer)
    return one_bos(tokenizer, tokens, wanted=wanted)


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """BOS, where the tokenizer has one, and the text; no template."""
    return one_bos(tokenizer, encode(tokenizer, text), wanted=True)


def plain_view(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> list[int]:
    """What a judge without a chat template reads: all texts with blank lines between, in its own special tokens."""
    text = "\n\n".join([*(message.content for message in messages), answer])
    return one_bos(tokenizer, list(tokenizer(text)["input_ids"]), wanted=adds_bos(tokenizer))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's own encoding of a text begins with BOS."""
    first = list(tokenizer("a")["input_ids"])[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def one_bos(tokenizer: PreTrainedTokenizerBase, tokens: list[int], *, wanted: bool) -> list[int]:
    """`tokens` with exactly one BOS in front where one is wanted, however many there were."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return tokens
    start = next((at for at, token in enumerate(tokens) if token != bos), len(tokens))
    return [bos] * wanted + tokens[start:]
