"""Pairwise prompts: "which of two answers is better?", cut to the length that a model accepts."""

from __future__ import annotations

import string
from bisect import bisect_left
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
    """Renders pairwise prompts of at most `longest` tokens."""

    tokenizer: PreTrainedTokenizerBase
    format: str
    template: str
    turn: str
    longest: int
    slot: str = "scorer"  # configuration key of the template: scorer, or prompts.compare

    def __post_init__(self) -> None:
        """Raises ValueError if the template alone is too long."""
        least = len(self._tokens("", "", ""))
        if least > self.longest:
            raise ValueError(
                f"{self.slot.partition('.')[0]}.max_tokens must be >= {least}, which {self.slot}.template takes alone, "
                f"got {self.longest}. Fix: raise it, or use a shorter template."
            )

    def both(
        self, messages: Sequence[Message], first: str, second: str, *, cut: bool
    ) -> tuple[tuple[Tokens, ...] | None, bool]:
        """The prompt in both orders of the answers, and whether it was cut to fit. None if too long and not `cut`.

        Both orders are cut alike: first the beginning of the conversation, then the ends of both answers. Raises
        ValueError if the chat template rejects the prompt.
        """
        talk = "\n\n".join(self.turn.format(role=message.role, content=message.content) for message in messages)
        whole = self._both(talk, first, second)
        if whole is not None or not cut:
            return whole, False
        # by characters, rendered again each time, since tokens may merge across a cut
        kept = most_that_fits(len(talk), lambda k: self._both(talk[len(talk) - k :], first, second) is not None)
        if kept >= 0:
            return self._both(talk[len(talk) - kept :], first, second), True
        longest = max(len(first), len(second))
        left = max(0, most_that_fits(longest, lambda k: self._both("", first[:k], second[:k]) is not None))
        return self._both("", first[:left], second[:left]), True

    def _both(self, talk: str, first: str, second: str) -> tuple[Tokens, ...] | None:
        """None if either order is too long."""
        orders = (self._tokens(talk, first, second), self._tokens(talk, second, first))
        return orders if max(map(len, orders)) <= self.longest else None

    def _tokens(self, talk: str, first: str, second: str) -> Tokens:
        text = self.template.format(conversation=talk, first=first, second=second)
        if self.format == "chat":
            return tuple(chat_tokens(self.tokenizer, [Message("user", text)], reply=True))
        return tuple(plain_tokens(self.tokenizer, text))


def check_words(slot: str, *, template: str, turn: str, first: str, second: str) -> None:
    """Raise ValueError if the templates or answer words are invalid. `slot`: their configuration key."""
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
    """Whether a template has exactly these fields."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None} == set(names)
    except ValueError:  # unbalanced braces
        return False


def answer_token(tokenizer: PreTrainedTokenizerBase, key: str, word: str, *, slot: str = "scorer") -> int:
    """The token of a word. Raises ValueError, naming `slot` and `key`, if it is not exactly one token."""
    tokens = encode(tokenizer, word)
    if len(tokens) != 1:
        pieces = ", ".join(repr(tokenizer.decode([token])) for token in tokens) or "none"
        raise ValueError(
            f"{slot}.{key} must be one token of {tokenizer.name_or_path!r}, got {word!r}, which is {len(tokens)} "
            f"({pieces}). Fix: one letter, such as A or B, here and in {slot}.template."
        )
    return tokens[0]


def most_that_fits(top: int, fits: Callable[[int], bool]) -> int:
    """The largest of 0..top that fits, by bisection; -1 if none does. If k fits, so must every smaller number."""
    return bisect_left(range(top + 1), True, key=lambda k: not fits(k)) - 1
