"""Two answers of a row as a question, A or B: what a pairwise preference model is trained on.

SLiC-HF, Zhao et al. 2023, arXiv:2305.10425; RLHF Workflow, Dong et al. 2024, arXiv:2405.07863.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.parse import Question as Asked
from rlhf_flow.prompts.tokenize import Rendering
from rlhf_flow.tokenization.pairwise_prompt import TEMPLATE, TURN, Question, answer_token, check_words
from rlhf_flow.types import Candidate, Prompt

FORTH, BACK = " forth", " back"  # behind the id of the row


@dataclass(frozen=True)
class Compare:
    """How the question is put. `scorer=preference_model` must be given the same, and is by default."""

    template: str = TEMPLATE  # the question, of {conversation}, {first} and {second}
    turn: str = TURN  # a message of {conversation}; blank lines stand between
    first: str = "A"  # the token that says: the first is better
    second: str = "B"

    def __post_init__(self) -> None:
        check_words("prompts.compare", template=self.template, turn=self.turn, first=self.first, second=self.second)


class Comparing:
    """Makes two prompts of a row: the question in both orders, each answered by either letter.

    The messages, and the texts of the candidates, are still those of the row, so that a scorer judges the answers. What
    the model continues is the question, and the tokens of a candidate are the letter that says that it is better.
    """

    def __init__(self, rendering: Rendering, compare: Compare) -> None:
        """Raises ValueError where the letters are no single tokens, or the template takes all of prompts.max_tokens."""
        tokenizer = rendering.tokenizer
        self._rendering = rendering
        self._question = Question(
            tokenizer, rendering.format, compare.template, compare.turn, rendering.max_tokens, slot="prompts.compare"
        )
        self._first = (answer_token(tokenizer, "first", compare.first, slot="prompts.compare"),)
        self._second = (answer_token(tokenizer, "second", compare.second, slot="prompts.compare"),)

    def prompts(self, asked: Asked, counts: Counter[str]) -> list[Prompt]:
        """Empty where the question is too long and to be dropped, or both answers are the same text.

        Raises ValueError where it is too long and to be refused, or the row has other than two answers.
        """
        if len(asked.candidates) != 2:
            raise ValueError(
                f"prompts.compare takes two answers to each prompt, and prompts.columns.candidates names "
                f"{', '.join(asked.candidates) or 'none'}. Name two."
            )
        (one, first), (other, second) = asked.candidates.items()
        if first == second:
            counts["identical"] += 1
            return []
        asked = self._rendering.with_system(asked)
        orders, cut = self._orders(asked, first, second)
        counts["too_long_cut"] += cut
        if orders is None:
            counts["too_long_dropped"] += 1
            return []
        words = (self._first, self._second)
        return [
            Prompt(
                asked.id + order,
                asked.messages,
                tokens,
                answer=asked.answer,
                candidates={one: Candidate(first, said[0]), other: Candidate(second, said[1])},
                meta=asked.meta,
            )
            for order, tokens, said in zip((FORTH, BACK), orders, (words, words[::-1]), strict=True)
        ]

    def _orders(self, asked: Asked, first: str, second: str) -> tuple[tuple[tuple[int, ...], ...] | None, bool]:
        """The question in both orders, and whether it was cut; None where it is to be dropped."""
        too_long = self._rendering.too_long
        try:
            orders, cut = self._question.both(asked.messages, first, second, cut=too_long == "cut")
        except ValueError as error:
            raise BadRowError(asked.place, str(error), "correct the row, or prompts.compare") from error
        if orders is None and too_long == "refuse":
            raise BadRowError(
                asked.place,
                f"expected a question of at most prompts.max_tokens={self._rendering.max_tokens} tokens, found a "
                "longer one",
                "raise prompts.max_tokens, or prompts.too_long=cut",
                kind="too_long",
            )
        return orders, cut


def row_of(prompt: str) -> str:
    """The id of the row that the prompt of this id was made of: both orders of a comparison have the same."""
    return prompt.removesuffix(FORTH).removesuffix(BACK)
