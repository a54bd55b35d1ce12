"""How a learner reads a response: as the log-probs of its tokens, or as a few numbers at its end.

The first makes a policy of the model, the second a reward model. Whatever the numbers are, they travel alike: [W] of a
response, as `TokenLogps` of a pair's sides. So everything behind a forward pass is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rlhf_flow.learner.batching import Packed, Row, pack, pack_policy
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.protocols import PromptSource
from rlhf_flow.tokenization.chat_template import chat_tokens, encode, require_template
from rlhf_flow.tokenization.end_tokens import end_of_answer
from rlhf_flow.types import Message
from rlhf_flow.weights.source import Checkpoint, InMemoryWeights, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


CHATS = 32  # prompts whose answers are rendered to see how a scorer would read them


class Readout(Protocol):
    """Which numbers a model gives of a response."""

    @property
    def generates(self) -> bool:
        """Whether the model is a policy: engines draw from it, and check its weights by the log-probs of a probe."""
        ...

    def width(self, row: Row) -> int:
        """How many numbers [W] a response has."""
        ...

    def pack(self, rows: Sequence[Row]) -> Packed:
        """The rows for one forward pass; `mask` [R, W] is True where numbers of a row stand, row by row."""
        ...

    def weights(self, weights: Weights) -> Weights:
        """Those of the model, from wherever they are."""
        ...


@dataclass(frozen=True)
class PolicyReadout:
    """A policy: the log-prob of each token of the response."""

    @property
    def generates(self) -> bool:
        return True

    def width(self, row: Row) -> int:
        return len(row.tokens)

    def pack(self, rows: Sequence[Row]) -> Packed:
        return pack_policy(rows)

    def weights(self, weights: Weights) -> Weights:
        return weights


@dataclass(frozen=True)
class RewardReadout:
    """A reward model: the outputs of its head at the last token of the conversation."""

    head: Head
    tail: tuple[int, ...] = ()  # what the chat template writes behind an answer
    trust_remote_code: bool = False

    @property
    def generates(self) -> bool:
        return False

    def width(self, row: Row) -> int:
        return self.head.outputs

    def pack(self, rows: Sequence[Row]) -> Packed:
        """`at` [R] is each row's last position; there are no targets."""
        tail = np.array(self.tail, dtype=np.int32)
        whole = [replace(row, tokens=np.concatenate([row.tokens, tail])) for row in rows]
        packed = pack(whole)
        length = packed.tokens.shape[1]
        last = np.array([r * length + row.length - 1 for r, row in enumerate(whole)], dtype=np.int64)
        mask = np.ones((len(rows), self.head.outputs), dtype=bool)
        return Packed(packed.tokens, last, np.zeros(0, dtype=np.int64), mask)

    def weights(self, weights: Weights) -> Weights:
        """Of a checkpoint of a language model too: its head is then the new one that `head.seed` makes."""
        if not isinstance(weights, Checkpoint):
            return weights
        from rlhf_flow.learner.reward_model import load_classifier

        lm = load_classifier(str(weights.path), self.head, revision=None, trust_remote_code=self.trust_remote_code)
        return InMemoryWeights(lm.state_dict())


def tail_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that the chat template writes behind an answer and its end token, where a judge reads the score.

    Empty without a template, and if the template writes something else before the end token.
    """
    end = end_of_answer(tokenizer, chat=True)
    if tokenizer.chat_template is None or end is None:
        return ()
    asked, answer = Message("user", "a"), Message("assistant", "b")
    before = [*chat_tokens(tokenizer, [asked], reply=True), *encode(tokenizer, "b"), end]
    whole = chat_tokens(tokenizer, [asked, answer], reply=False)
    return tuple(whole[len(before) :]) if whole[: len(before)] == before else ()


def check_view(tokenizer: PreTrainedTokenizerBase, prompts: PromptSource) -> None:
    """Refuse to train a judge on other tokens than it will read: a scorer renders prompt and answer as one chat.

    Some answers may differ, where the tokenizer merges their first characters with the end of the prompt.
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
            "what is trained is a prompt as the model continues it, an answer and its end token, and a scorer would "
            f"read other tokens in {len(alike) - sum(alike)} of {len(alike)} chats. Use prompts.format=chat, "
            "and in model.path a chat template that writes nothing between an answer and the token that ends its turn."
        )
