"""An LLM judge that marks each answer by a rubric, behind an OpenAI-compatible endpoint.

Single-answer grading, Zheng et al. 2023, arXiv:2306.05685, by several criteria in one reply.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.client import CAUSES, ChatClient, EndpointScorer
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.marks import marks
from rlhf_flow.scorer.llm.request import MARK, Chat, digest, question, talk, template
from rlhf_flow.scorer.pairwise import by_answer, by_comparison, prompts_and_responses
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, Response, Rollouts, Scored


@dataclass(frozen=True)
class Rubric(EndpointScorer):
    """A mark from `low` to `high` by each criterion, as aspects; the utility is their weighted mean.

    The response of higher utility wins with probability 1; exact ties get 1/2. Equal texts are marked once.
    """

    model: str  # the endpoint's name for it
    criteria: dict[str, float] = field(default_factory=dict)  # name -> weight; at least one
    low: float = 1.0  # the worst mark
    high: float = 10.0  # the best
    template: str = "rubric"  # or a file with {conversation}, {answer}, and optionally {criteria} {low} {high} {mark}
    temperature: float = 0.0  # of the judge
    max_tokens: int = 256  # of a reply
    thinking: bool | None = None  # make the judge think (with 8192 more reply tokens), or not; null: its default
    structured: str | None = None  # true: ask for JSON by a schema; auto: unless the endpoint refuses it; null: false
    request: dict[str, Any] = field(default_factory=dict)  # further keys of each request; null removes one
    endpoint: Endpoint = field(default_factory=Endpoint)
    budget: Budget = field(default_factory=Budget)

    intransitive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._chat()
        weighted = bool(self.criteria) and all(0 < weight < math.inf for weight in self.criteria.values())
        check_fields(
            self,
            ("criteria", "at least one name with a weight > 0, such as {helpful: 2, harmless: 1}", weighted),
            ("low", "a number", math.isfinite(self.low)),
            ("high", "a number above scorer.low", self.low < self.high < math.inf),
        )

    def fingerprint(self) -> str:
        """Hash of the request without the answers, and of how marks are read and weighted."""
        return digest([self._chat().public(self._template().replace(MARK, "")), self.criteria, self.low, self.high])

    def open(self, place: Place) -> RubricJudge:
        """Raises ValueError if the template or the cache cannot be read."""
        client = ChatClient(
            self._chat(), self.endpoint, self.budget, reads=lambda reply: self.marks(reply.text) is not None
        )
        return RubricJudge(self, client, self._template())

    def marks(self, text: str) -> dict[str, float] | None:
        """The marks in a reply; None if they are not clear."""
        return marks(text, self.criteria.keys(), low=self.low, high=self.high)

    def _chat(self) -> Chat:
        numbers = {name: {"type": "number"} for name in self.criteria}
        return Chat(
            self.model,
            self.temperature,
            self.max_tokens,
            self.request,
            thinking=self.thinking,
            structured=self.structured,
            schema={"type": "object", "properties": numbers, "required": list(numbers), "additionalProperties": False},
        )

    def _template(self) -> str:
        return template(self.template, needs=("conversation", "answer"), takes=("criteria", "low", "high", "mark"))


@dataclass(frozen=True)
class RubricJudge:
    """An opened judge that marks."""

    spec: Rubric
    client: ChatClient
    template: str

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask about the answers that are not cached. Without clear marks an answer's utility and wins are NaN.

        Raises CapReached or EndpointError; replies until then are cached.
        """
        questions = {one.id: self._question(prompt, one) for prompt, one in prompts_and_responses(rollouts)}
        asked = dict(questions.values())
        replies = self.client.ask(asked)
        read = {question: self.spec.marks(reply.text) for question, reply in replies.known.items()}
        unclear = [question for question in asked if read.get(question) is None]
        causes = Counter(replies.cause(question) for question in unclear)
        unmarked = dict.fromkeys(self.spec.criteria, math.nan)
        marked = {id: read.get(question) or unmarked for id, (question, _) in questions.items()}
        utility = by_answer(rollouts, {id: self._mean(one) for id, one in marked.items()})  # [B, N]
        counts = {
            "judge/queries": len(replies.asked),
            "judge/cached": len(replies.known.keys() - replies.asked),
            "judge/asked": len(asked),
            "judge/verdicts": len(asked) - len(unclear),
            "judge/abstained": len(unclear),
            **{f"judge/{cause}": causes[cause] for cause in CAUSES if cause != "capped"},
            **replies.counts(self.spec.budget),
        }
        aspects = {
            name: by_answer(rollouts, {id: one[name] for id, one in marked.items()}) for name in self.spec.criteria
        }
        return Scored(rollouts, utility=utility, wins=by_comparison(utility), aspects=aspects, counts=counts)

    def close(self) -> None:
        """Close the cache."""
        self.client.close()

    def _question(self, prompt: Prompt, response: Response) -> tuple[str, str]:
        return question(
            self.template,
            conversation=talk(prompt.messages),
            answer=response.text,
            criteria=", ".join(self.spec.criteria),
            low=f"{self.spec.low:g}",
            high=f"{self.spec.high:g}",
        )

    def _mean(self, marked: dict[str, float]) -> float:
        weights = self.spec.criteria
        return sum(weight * marked[name] for name, weight in weights.items()) / sum(weights.values())
