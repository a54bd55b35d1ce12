"""Two answers of a row as a question, A or B: the training data of a pairwise preference model.

SLiC-HF, Zhao et al. 2023, arXiv:2305.10425; RLHF Workflow, Dong et al. 2024, arXiv:2405.07863.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.parse import Question as Asked
from rlhf_flow.prompts.tokenize import Rendering
from rlhf_flow.prompts.turns import TURN as TURN_OF_ROW
from rlhf_flow.tokenization.pairwise_prompt import TEMPLATE, TURN, Question, answer_token, check_words
from rlhf_flow.types import Candidate, Prompt

FORTH, BACK = " forth", " back"  # suffixes of the row's id
SUFFIX = re.compile(rf"(?:{FORTH}|{BACK}|{TURN_OF_ROW}\d+)$")


@dataclass(frozen=True)
class Compare:
    """The wording of the question. `scorer=preference_model` must have the same, and does by default."""

    template: str = TEMPLATE  # the question, of {conversation}, {first} and {second}
    turn: str = TURN  # a message of {conversation}; blank lines stand between
    first: str = "A"  # the token that says: the first is better
    second: str = "B"

    def __post_init__(self) -> None:
        check_words("prompts.compare", template=self.template, turn=self.turn, first=self.first, second=self.second)


class Comparing:
    """Makes two prompts of a row: the question in both orders.

    Messages and candidate texts are those of the row, so that a scorer judges the answers. The prompt's tokens are the
    question, and a candidate's tokens are the letter that says that it is better.
    """

    def __init__(self, rendering: Rendering, compare: Compare) -> None:
        """Raises ValueError if a letter is not one token, or the template alone exceeds prompts.max_tokens."""
        tokenizer, slot = rendering.tokenizer, "prompts.compare"
        self._rendering = rendering
        self._question = Question(
            tokenizer, rendering.format, compare.template, compare.turn, rendering.max_tokens, slot=slot
        )
        self._first = (answer_token(tokenizer, "first", compare.first, slot=slot),)
        self._second = (answer_token(tokenizer, "second", compare.second, slot=slot),)

    def prompts(self, asked: Asked, counts: Counter[str]) -> list[Prompt]:
        """Empty if the question is too long and is to be dropped, or both answers are the same text.

        Raises BadRowError if it is too long and is to be refused, ValueError if the row has other than two answers.
        """
        if len(asked.candidates) != 2:
            raise ValueError(
                f"prompts.compare takes two answers to each prompt, and prompts.columns.candidates names "
                f"{', '.join(asked.candidates) or 'none'}. Fix: name two."
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
        prompts = []
        for suffix, tokens, letters in zip(
            (FORTH, BACK), orders, ((self._first, self._second), (self._second, self._first)), strict=True
        ):
            candidates = {one: Candidate(first, letters[0]), other: Candidate(second, letters[1])}
            id, answer = asked.id + suffix, asked.answer
            prompts.append(Prompt(id, asked.messages, tokens, answer=answer, candidates=candidates, meta=asked.meta))
        return prompts

    def _orders(self, asked: Asked, first: str, second: str) -> tuple[tuple[tuple[int, ...], ...] | None, bool]:
        """The question in both orders, and whether it was cut; None if it is to be dropped."""
        too_long = self._rendering.too_long
        try:
            orders, cut = self._question.both(asked.messages, first, second, cut=too_long == "cut")
        except ValueError as error:
            raise BadRowError(asked.place, str(error), "correct the row, or prompts.compare") from error
        if orders is None and too_long == "refuse":
            most = self._rendering.max_tokens
            problem = f"expected a question of at most prompts.max_tokens={most} tokens, found a longer one"
            fix = "raise prompts.max_tokens, or prompts.too_long=cut"
            raise BadRowError(asked.place, problem, fix, kind="too_long")
        return orders, cut


def row_of(prompt: str) -> str:
    """The id of the row that a prompt, by its id, was made of: orders of a comparison and turns have the same."""
    return SUFFIX.sub("", prompt)
