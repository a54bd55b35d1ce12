"""A language model behind an OpenAI-compatible endpoint that marks each answer by a rubric, alone.

Single-answer grading, Zheng et al. 2023, arXiv:2306.05685, by several criteria in one reply.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.client import CAUSES, ChatClient
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.marks import marks
from rlhf_flow.scorer.llm.request import MARK, Chat, digest, question, talk, template
from rlhf_flow.scorer.pairwise import by_answer, by_comparison
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, Response, Rollouts, Scored


@dataclass(frozen=True)
class Rubric:
    """A mark from `low` to `high` by each criterion, as aspects; their weighted mean is what an answer is worth.

    An answer of more worth wins with probability 1; exact ties get 1/2. Answers with the same text are asked about
    once.
    """

    model: str  # by the name that the endpoint knows it by
    criteria: dict[str, float] = field(default_factory=dict)  # name -> weight; at least one
    low: float = 1.0  # the worst mark
    high: float = 10.0  # the best
    template: str = "rubric"  # or a file with {conversation}, {answer}, and {criteria}, {low}, {high}, {mark} if wanted
    temperature: float = 0.0  # of the judge
    max_tokens: int = 256  # of a reply
    thinking: bool | None = None  # tell the judge to think, with room for 8192 tokens of it, or not to; null: not told
    structured: str | None = None  # true: ask for JSON by a schema; auto: unless the endpoint refuses it; null: false
    request: dict[str, Any] = field(default_factory=dict)  # further keys of each request; null takes one out
    endpoint: Endpoint = field(default_factory=Endpoint)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        self._chat()
        weighted = bool(self.criteria) and all(0 < weight < math.inf for weight in self.criteria.values())
        for key, rule, ok in (
            ("criteria", "at least one name with a weight > 0, such as {helpful: 2, harmless: 1}", weighted),
            ("low", "a number", math.isfinite(self.low)),
            ("high", "a number above scorer.low", self.low < self.high < math.inf),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def intransitive(self) -> bool:
        return False  # a number for each answer

    @property
    def loads_model(self) -> bool:
        return False  # it waits for one that is elsewhere

    @property
    def cache_format(self) -> None:
        return None  # it keeps the replies itself

    def fingerprint(self) -> str:
        """Hash of all that is sent but the answers, and of how the marks are read and weighed."""
        return digest([self._chat().public(self._template().replace(MARK, "")), self.criteria, self.low, self.high])

    def check(self) -> None:
        """Raise ValueError where the template, the cache, the client or its key is not there. Nothing is sent."""
        self._template()
        self.endpoint.check()
        self.budget.open().close()

    def open(self, place: Place) -> RubricJudge:
        """Raises ValueError where the template or the cache cannot be read."""
        asker = ChatClient(
            self._chat(), self.endpoint, self.budget, reads=lambda reply: self.marks(reply.text) is not None
        )
        return RubricJudge(self, asker, self._template())

    @property
    def reply_tokens(self) -> int:
        """The most tokens that a reply may take."""
        return self._chat().most("")[1]

    def marks(self, text: str) -> dict[str, float] | None:
        """What a reply says; None if it is not clear."""
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
    """A rubric at work."""

    spec: Rubric
    asker: ChatClient
    template: str

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask what is not known yet. An answer without clear marks has neither utility nor wins: both are NaN.

        Raises CapReached or EndpointError; what was answered until then is kept.
        """
        questions = {
            response.id: self._question(prompt, response)
            for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in responses
        }
        asked = dict(questions.values())
        replies = self.asker.ask(asked)
        read = {question: self.spec.marks(reply.text) for question, reply in replies.known.items()}
        unclear = [question for question in asked if read.get(question) is None]
        causes = Counter(replies.cause(question) for question in unclear)
        unmarked = dict.fromkeys(self.spec.criteria, math.nan)
        marked = {id: read.get(question) or unmarked for id, (question, _) in questions.items()}
        utility = by_answer(rollouts, {id: self._worth(held) for id, held in marked.items()})  # [B, N]
        counts = {
            "judge/queries": len(replies.asked),
            "judge/cached": len(replies.known.keys() - replies.asked),
            "judge/asked": len(asked),
            "judge/verdicts": len(asked) - len(unclear),
            "judge/abstained": len(unclear),
            **{f"judge/{cause}": causes[cause] for cause in CAUSES if cause != "capped"},
            **replies.counts(self.spec.budget),
        }
        return Scored(
            rollouts,
            utility=utility,
            wins=by_comparison(utility),
            aspects={
                name: by_answer(rollouts, {id: held[name] for id, held in marked.items()})
                for name in self.spec.criteria
            },
            counts=counts,
        )

    def close(self) -> None:
        """Close the cache."""
        self.asker.close()

    def _question(self, prompt: Prompt, response: Response) -> tuple[str, str]:
        return question(
            self.template,
            conversation=talk(prompt.messages),
            answer=response.text,
            criteria=", ".join(self.spec.criteria),
            low=f"{self.spec.low:g}",
            high=f"{self.spec.high:g}",
        )

    def _worth(self, held: dict[str, float]) -> float:
        weights = self.spec.criteria
        return sum(weight * held[name] for name, weight in weights.items()) / sum(weights.values())
