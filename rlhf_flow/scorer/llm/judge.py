"""An LLM judge that compares two answers, behind an OpenAI-compatible endpoint.

LLM-as-a-judge, Zheng et al. 2023, arXiv:2306.05685. Both orders are asked and averaged, against position bias.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.client import AT_CAP, CAUSES, ChatClient, EndpointScorer, Replies
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.parse_reply import preference
from rlhf_flow.scorer.llm.request import MARK, Chat, digest, question, talk, template
from rlhf_flow.scorer.pair_schedule import BothOrders, PairVerdict, settled
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored


@dataclass(frozen=True)
class Judge(BothOrders, EndpointScorer):
    """Two distinct answers to a prompt are compared once, in both orders. That is one query of two calls."""

    model: str  # the endpoint's name for it
    template: str = "pairwise"  # or pairwise_reasons, or a file with {conversation}, {first}, {second} and {mark}
    temperature: float = 0.0  # of the judge
    max_tokens: int = 16  # of a reply: enough for a letter. A reply with reasons, or thoughts, needs hundreds
    logprobs: bool = True  # P(A) and P(B) of the reply's first token if the endpoint gives them; else 1, 0 or 1/2
    thinking: bool | None = None  # make the judge think (with 8192 more reply tokens), or not; null: its default
    structured: str | None = None  # true: ask for JSON by a schema; auto: unless the endpoint refuses it; null: false
    at_cap: str = "stop"  # stop | abstain (from further pairs, and count them) at a cap of the budget
    request: dict[str, Any] = field(default_factory=dict)  # further keys of each request; null removes one
    endpoint: Endpoint = field(default_factory=Endpoint)
    budget: Budget = field(default_factory=Budget)

    intransitive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, ("at_cap", f"one of {', '.join(AT_CAP)}", self.at_cap in AT_CAP))
        self._chat()

    @property
    def gives_probabilities(self) -> bool:
        return self.logprobs

    def fingerprint(self) -> str:
        """Hash of the request without the answers: model, template, decoding."""
        return digest(self._chat().public(self._template().replace(MARK, "")))

    def open(self, place: Place) -> PairJudge:
        """Raises ValueError if the template or the cache cannot be read."""
        client = ChatClient(
            self._chat(),
            self.endpoint,
            self.budget,
            reads=lambda reply: preference(reply) is not None,
            at_cap=self.at_cap,
        )
        return PairJudge(self, client, self._template())

    def _chat(self) -> Chat:
        return Chat(
            self.model,
            self.temperature,
            self.max_tokens,
            self.request,
            logprobs=self.logprobs,
            thinking=self.thinking,
            structured=self.structured,
            schema=_schema(reasons=self.template != "pairwise"),
        )

    def _template(self) -> str:
        return template(self.template, needs=("conversation", "first", "second"), takes=("mark",))


def _schema(*, reasons: bool) -> dict[str, Any]:
    """Of a structured reply."""
    verdict = {"verdict": {"type": "string", "enum": ["A", "B", "C"]}}
    keys = {"reasons": {"type": "string"}, **verdict} if reasons else verdict
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


@dataclass(frozen=True)
class PairJudge:
    """An opened judge of pairs."""

    spec: Judge
    client: ChatClient
    template: str

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask about the matches that are not cached; equal texts tie without a call.

        P(first beats second) is the mean over both orders. A match without a clear verdict in both orders is an
        abstention. Flags: `inconsistent`, if both orders prefer the same position; `capped`, if a question was beyond
        a cap. Raises EndpointError, or CapReached with at_cap=stop; replies until then are cached.
        """
        counts = Counter[str]()
        ask = partial(self._ask, counts)
        return self.spec.compare(rollouts, ask, marks=["inconsistent", "capped"], counts=counts)

    def close(self) -> None:
        """Close the cache."""
        self.client.close()

    def _ask(self, counts: Counter[str], matches: Sequence[Match]) -> list[PairVerdict]:
        """The verdicts on matches. Adds to the counts."""
        orders = [(self._question(match), self._question(match, swapped=True)) for match in matches]
        replies = self.client.ask(dict(one for both in orders for one in both))
        asked = [(forth[0], back[0]) for forth, back in orders]
        verdicts = [self._settled(replies, both) for both in asked]
        known = replies.known.keys()
        causes = Counter(cause for both in asked if (cause := _cause(replies, both)) is not None)
        counted = [cause for cause in CAUSES if cause != "capped" or self.spec.at_cap == "abstain"]
        counts.update(
            {
                "judge/queries": sum(not replies.asked.isdisjoint(both) for both in asked),
                "judge/cached": sum(replies.asked.isdisjoint(both) and known >= {*both} for both in asked),
                "judge/inconsistent": sum(one.mark == "inconsistent" for one in verdicts),
                **{f"judge/{cause}": causes[cause] for cause in counted},
                **replies.counts(self.spec.budget),
            }
        )
        return verdicts

    def _settled(self, replies: Replies, both: tuple[str, str]) -> PairVerdict:
        if not replies.capped.isdisjoint(both):
            return PairVerdict(math.nan, "capped")
        return settled(*(_preference(replies, question) for question in both), inconsistent=self.spec.inconsistent)

    def _question(self, match: Match, *, swapped: bool = False) -> tuple[str, str]:
        first, second = (match.second, match.first) if swapped else (match.first, match.second)
        conversation = talk(match.prompt.messages)
        return question(self.template, conversation=conversation, first=first.text, second=second.text)


def _preference(replies: Replies, question: str) -> float:
    """P(the answer shown first is better); NaN if there is no reply, or no verdict in it."""
    reply = replies.known.get(question)
    p = None if reply is None else preference(reply)
    return math.nan if p is None else p


def _cause(replies: Replies, both: tuple[str, str]) -> str | None:
    """Why a match has no verdict: the gravest cause of its two questions; None if both have one."""
    causes = {replies.cause(question) for question in both if math.isnan(_preference(replies, question))}
    return next((cause for cause in CAUSES if cause in causes), None)
