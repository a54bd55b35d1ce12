"""Which of two answers is better: the question as a language model reads it, and how it is made to fit."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rlhf_flow.tokenization.chat_template import chat_tokens, encode, plain_tokens
from rlhf_flow.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = """\
Here are a conversation and two answers to its last message.

{conversation}

[Answer A]
{first}

[Answer B]
{second}

Which answer is better, A or B? Reply with the letter alone."""
TURN = "{role}: {content}"
TOO_LONG = ("cut", "abstain")

Tokens: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """How two answers are put before the judge, at most `longest` tokens of it."""

    tokenizer: PreTrainedTokenizerBase
    format: str
    template: str
    turn: str
    longest: int
    slot: str = "scorer"  # where the template was configured: scorer, or prompts.compare

    def __post_init__(self) -> None:
        """Raises ValueError where the template alone is too long."""
        least = len(self._tokens("", "", ""))
        if least > self.longest:
            raise ValueError(
                f"{self.slot.partition('.')[0]}.max_tokens must be >= {least}, which {self.slot}.template takes alone, "
                f"got {self.longest}. Raise it, or use a shorter template."
            )

    def both(
        self, messages: Sequence[Message], first: str, second: str, *, cut: bool
    ) -> tuple[tuple[Tokens, ...] | None, bool]:
        """The question in both orders, the first answer first in the first, and whether it was cut to fit.

        None where it is too long and not to be `cut`. It is cut alike in both orders: the conversation loses its
        beginning, and where that is not enough both answers lose their ends.
        Raises ValueError where the chat template refuses the question.
        """
        talk = "\n\n".join(self.turn.format(role=message.role, content=message.content) for message in messages)
        whole = self._both(talk, first, second)
        if whole is not None or not cut:
            return whole, False
        # by bisection over characters with a fresh rendering each time: no token is split, and neighbours may merge
        kept = _most(len(talk), lambda k: self._both(talk[len(talk) - k :], first, second) is not None)
        if kept is not None:
            return self._both(talk[len(talk) - kept :], first, second), True
        left = _most(max(len(first), len(second)), lambda k: self._both("", first[:k], second[:k]) is not None) or 0
        return self._both("", first[:left], second[:left]), True

    def _both(self, talk: str, first: str, second: str) -> tuple[Tokens, ...] | None:
        """None where either order is too long."""
        orders = (self._tokens(talk, first, second), self._tokens(talk, second, first))
        return orders if max(map(len, orders)) <= self.longest else None

    def _tokens(self, talk: str, first: str, second: str) -> Tokens:
        text = self.template.format(conversation=talk, first=first, second=second)
        if self.format == "chat":
            return tuple(chat_tokens(self.tokenizer, [Message("user", text)], reply=True))
        return tuple(plain_tokens(self.tokenizer, text))


def check_words(slot: str, *, template: str, turn: str, first: str, second: str) -> None:
    """Raise ValueError where no question can be made of these; `slot` is where they are configured."""
    turned = has_fields(turn, "role", "content") or has_fields(turn, "content")
    placed = has_fields(template, "conversation", "first", "second")
    for key, value, rule, ok in (
        ("template", template, "a text with {conversation}, {first} and {second}, and other braces doubled", placed),
        ("turn", turn, "a text with {role} and {content}, and other braces doubled", turned),
        ("second", second, f"another word than {slot}.first", second != first),
    ):
        if not ok:
            raise ValueError(f"{slot}.{key} must be {rule}, got {value!r}")


def has_fields(template: str, *names: str) -> bool:
    """Whether a template has each of these fields, and no other."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None} == set(names)
    except ValueError:  # a brace that closes nothing
        return False


def answer_token(tokenizer: PreTrainedTokenizerBase, key: str, word: str, *, slot: str = "scorer") -> int:
    """The one token that a word is. Raises ValueError, naming `slot` and `key`, where it is more, or none."""
    tokens = encode(tokenizer, word)
    if len(tokens) != 1:
        pieces = ", ".join(repr(tokenizer.decode([token])) for token in tokens) or "none"
        raise ValueError(
            f"{slot}.{key} must be one token of {tokenizer.name_or_path!r}, got {word!r}, which is {len(tokens)} "
            f"({pieces}). Use one letter, such as A and B, and name it so in {slot}.template."
        )
    return tokens[0]


def _most(top: int, fits: Callable[[int], bool]) -> int | None:
    """The most of `top` that fits; None where nothing does."""
    if not fits(0):
        return None
    kept, too_many = 0, top + 1
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        if fits(middle):
            kept = middle
        else:
            too_many = middle
    return kept
