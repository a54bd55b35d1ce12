"""The outputs of a model for a response: log-probs of its tokens (policy), or outputs at its end (reward model).

Both are [W] per response and become `TokenLogps` of a pair's sides, so the code after the forward pass is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rlhf_flow.learner.batching import Packed, Row, pack
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.protocols import PromptSource
from rlhf_flow.tokenization.chat_template import chat_tokens, encode, require_template
from rlhf_flow.tokenization.end_tokens import end_of_answer
from rlhf_flow.types import Message
from rlhf_flow.weights.source import Checkpoint, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATS = 32  # prompts whose responses are rendered to compare with a scorer's tokens


class Readout(Protocol):
    """Which outputs a model has for a response."""

    @property
    def generates(self) -> bool:
        """Whether the model is a policy, which engines sample from and check by a probe."""
        ...

    @property
    def shares(self) -> bool:
        """Whether the responses to a prompt share its tokens in a forward pass."""
        ...

    def width(self, row: Row) -> int:
        """The number of outputs W of a response."""
        ...

    def pack(self, rows: Sequence[Row]) -> Packed:
        """The rows for one forward pass; `mask` [R, W] marks the outputs of each row."""
        ...

    def weights(self, weights: Weights) -> Weights:
        """The weights in the form of this model."""
        ...


@dataclass(frozen=True)
class PolicyReadout:
    """Policy: the log-prob of each response token."""

    shares: bool = False
    multiple: int = 1  # of the length of a line, so that compiled layers meet few shapes

    @property
    def generates(self) -> bool:
        return True

    def width(self, row: Row) -> int:
        return len(row.tokens)

    def pack(self, rows: Sequence[Row]) -> Packed:
        return pack_groups(rows, self.multiple) if self.shares else pack(rows)

    def weights(self, weights: Weights) -> Weights:
        return weights


@dataclass(frozen=True)
class RewardReadout:
    """Reward model: the outputs of its head at the last token of the conversation."""

    head: Head
    tail: tuple[int, ...] = ()  # tokens of the chat template after a response

    @property
    def generates(self) -> bool:
        return False

    @property
    def shares(self) -> bool:
        return False

    def width(self, row: Row) -> int:
        return self.head.outputs

    def pack(self, rows: Sequence[Row]) -> Packed:
        """`at` [R] holds each row's last position; there are no targets."""
        tail = np.array(self.tail, dtype=np.int32)
        whole = [replace(row, tokens=np.concatenate([row.tokens, tail])) for row in rows]
        packed = pack(whole)
        length = packed.tokens.shape[1]
        last = np.array([r * length + row.length - 1 for r, row in enumerate(whole)], dtype=np.int64)
        mask = np.ones((len(rows), self.head.outputs), dtype=bool)
        return Packed(packed.tokens, last, np.zeros(0, dtype=np.int64), mask)

    def weights(self, weights: Weights) -> Weights:
        """The weights; a checkpoint of a language model gets the new head of `head.seed`."""
        if not isinstance(weights, Checkpoint):
            return weights
        from rlhf_flow.learner.reward_model import with_head

        return with_head(weights, self.head)


def tail_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens of the chat template after a response and its end token; the last one has the score.

    Empty without a template, or if the template inserts other tokens before the end token.
    """
    end = end_of_answer(tokenizer, chat=True)
    if tokenizer.chat_template is None or end is None:
        return ()
    asked, answer = Message("user", "a"), Message("assistant", "b")
    before = [*chat_tokens(tokenizer, [asked], reply=True), *encode(tokenizer, "b"), end]
    whole = chat_tokens(tokenizer, [asked, answer], reply=False)
    return tuple(whole[len(before) :]) if whole[: len(before)] == before else ()


def check_view(tokenizer: PreTrainedTokenizerBase, prompts: PromptSource) -> None:
    """Raise ValueError if training would use other tokens than a scorer, which renders prompt and response as one chat.

    Up to half of the chats may differ: a tokenizer may merge a response's first characters with the prompt's end.
    """
    require_template(tokenizer, "prompts.format")
    tail = tail_of(tokenizer)
    alike = [
        chat_tokens(tokenizer, [*prompt.messages, Message("assistant", answer.text)], reply=False)
        == [*prompt.tokens, *answer.tokens, *tail]
        for prompt in prompts.batch(1)[:CHATS]
        for answer in prompt.candidates.values()
    ]
    if 2 * sum(alike) < len(alike):
        raise ValueError(
            "training uses the prompt, the response and its end token, but a scorer would read other tokens in "
            f"{len(alike) - sum(alike)} of {len(alike)} chats. Fix: prompts.format=chat, and in model.path a chat "
            "template that writes nothing between a response and the token that ends its turn."
        )
