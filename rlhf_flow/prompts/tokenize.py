"""Questions as tokens, in the chat template or plain. A question that is too long is cut, dropped or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.parse import Question
from rlhf_flow.tokenization.chat_template import FORMATS, chat_tokens, encode, plain_tokens, require_template
from rlhf_flow.tokenization.end_tokens import end_of_answer
from rlhf_flow.types import Candidate, Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = ("refuse", "cut", "drop")
REVISION = "{question}\n\nHere is an answer:\n\n{answer}\n\nWrite a better answer."


@dataclass(frozen=True)
class Rendering:
    """How a question becomes the tokens that the policy continues."""

    tokenizer: PreTrainedTokenizerBase
    format: str
    system: str | None
    max_tokens: int
    too_long: str
    revisions: bool = False  # whether each candidate is also there as a revision of each one
    answer_tokens: int | None = None  # of a candidate

    def __post_init__(self) -> None:
        assert self.format in FORMATS and self.too_long in TOO_LONG
        if self.format == "chat":
            require_template(self.tokenizer, "prompts.format")

    @cached_property
    def end(self) -> int | None:
        """The token that ends the policy's answers."""
        return end_of_answer(self.tokenizer, chat=self.format == "chat")

    def prompts(self, question: Question, counts: Counter[str]) -> list[Prompt]:
        """The prompt of a row; empty if the row is dropped. Adds to `counts` if it is cut or dropped."""
        rendered = self.render(question)
        candidates = {name: self.candidate(question.place, text) for name, text in question.candidates.items()}
        if rendered is None or self._too_long(question.place, candidates):
            counts["too_long_dropped"] += 1
            return []
        asked, tokens, cut = rendered
        counts["too_long_cut"] += cut
        if self.revisions:
            candidates |= self._revised(asked, candidates)
        return [Prompt(asked.id, asked.messages, tokens, answer=asked.answer, candidates=candidates, meta=asked.meta)]

    def render(self, question: Question) -> tuple[Question, tuple[int, ...], bool] | None:
        """The question as the policy sees it, its tokens, and whether it was cut; None if it is to be dropped.

        Raises BadRowError if it is too long and is to be refused, or cannot be cut.
        """
        asked = self.with_system(question)
        tokens = self._tokens(asked)
        if len(tokens) <= self.max_tokens:
            return asked, tuple(tokens), False
        if self.too_long == "drop":
            return None
        if self.too_long == "refuse":
            raise BadRowError(
                question.place,
                f"expected a prompt of at most prompts.max_tokens={self.max_tokens} tokens, found {len(tokens)}",
                "raise prompts.max_tokens, or prompts.too_long=cut",
                kind="too_long",
            )
        cut = self._cut(asked)
        return cut, tuple(self._tokens(cut)), True

    def candidate(self, place: str, text: str) -> Candidate:
        """An answer of the data set as the policy would give it: its tokens, and the policy's end token.

        It is encoded without the prompt, as a policy starts its answer after the prompt's last token. Raises ValueError
        if the tokenizer has no end token.
        """
        if self.end is None:
            raise ValueError(
                f"{place}: an answer of the data set must end like the policy's answers, but neither the chat template "
                "nor the tokenizer names an end token. Fix: set eos_token in tokenizer_config.json."
            )
        return Candidate(text, (*encode(self.tokenizer, text), self.end))

    def _too_long(self, place: str, candidates: Mapping[str, Candidate]) -> bool:
        """Whether an answer is too long. Raises BadRowError if it is to be refused."""
        longest = max((len(one.tokens) for one in candidates.values()), default=0)
        if self.answer_tokens is None or longest <= self.answer_tokens:
            return False
        if self.too_long == "refuse":
            raise BadRowError(
                place,
                f"an answer may have prompts.columns.answer_tokens={self.answer_tokens} tokens, found {longest}",
                "raise prompts.columns.answer_tokens, or prompts.too_long=drop",
                kind="too_long",
            )
        return True

    def _revised(self, question: Question, candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
        """Each candidate as a revision of each: "a|b" is a, where the prompt shows b and asks for a better one."""
        *before, last = question.messages
        revised = dict[str, Candidate]()
        for name, shown in candidates.items():
            text = REVISION.format(question=last.content, answer=shown.text)
            context = tuple(self._tokens(replace(question, messages=(*before, Message(last.role, text)))))
            revised |= {f"{one}|{name}": replace(each, context=context) for one, each in candidates.items()}
        return revised

    def with_system(self, question: Question) -> Question:
        """The question with the configured system message, if it has none of its own."""
        if self.system is None or question.messages[0].role == "system":
            return question
        return replace(question, messages=(Message("system", self.system), *question.messages))

    def _tokens(self, question: Question) -> list[int]:
        if self.format == "chat":
            try:
                return chat_tokens(self.tokenizer, question.messages, reply=True)
            except ValueError as error:
                raise BadRowError(question.place, str(error), "correct the row, or the chat template") from error
        if len(question.messages) != 1:
            problem = f"prompts.format=plain takes one user message, found {len(question.messages)} messages"
            raise BadRowError(question.place, problem, "prompts.format=chat, or write the chat as one text")
        return plain_tokens(self.tokenizer, question.messages[0].content)

    def _cut(self, question: Question) -> Question:
        """Shorten the last user message to the longest prefix that fits; the template around it stays whole.

        Bisects over characters and renders each time, so that no token is split and neighbouring tokens may merge.
        """
        *before, last = question.messages
        fits, too_many = 0, len(last.content)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            shorter = replace(question, messages=(*before, Message(last.role, last.content[:middle])))
            if len(self._tokens(shorter)) <= self.max_tokens:
                fits = middle
            else:
                too_many = middle
        content = last.content[:fits]
        if not content.strip():
            raise BadRowError(
                question.place,
                f"the prompt cannot be cut to prompts.max_tokens={self.max_tokens} tokens, because the template, the "
                "system message and earlier turns fill them",
                "raise prompts.max_tokens",
                kind="too_long",
            )
        return replace(question, messages=(*before, Message(last.role, content)))
