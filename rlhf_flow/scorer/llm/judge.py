"""A language model behind an OpenAI-compatible endpoint that is asked which of two answers is better.

LLM-as-a-judge, Zheng et al. 2023, arXiv:2306.05685. Both orders are asked and averaged: no place has an advantage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.client import AT_CAP, CAUSES, ChatClient, Replies
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.parse_reply import preference
from rlhf_flow.scorer.llm.request import MARK, Chat, digest, question, talk, template
from rlhf_flow.scorer.matches import Match
from rlhf_flow.scorer.pair_schedule import BothOrders, PairVerdict, settled
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored


@dataclass(frozen=True)
class Judge(BothOrders):
    """Two different answers to a prompt are compared once, in both orders. That is one query of two calls."""

    model: str  # by the name that the endpoint knows it by
    template: str = (
        "pairwise"  # or pairwise_reasons, or a file with {conversation}, {first}, {second}, and {mark} behind
    )
    # each delimiter if no answer is to forge one
    temperature: float = 0.0  # of the judge
    max_tokens: int = 16  # of a reply: for a letter. One with reasons, or thoughts, needs hundreds
    logprobs: bool = True  # P(A) and P(B) of the reply's first token where the endpoint gives them; else 1, 0 or 1/2
    thinking: bool | None = None  # tell the judge to think, with room for 8192 tokens of it, or not to; null: not told
    structured: str | None = None  # true: ask for JSON by a schema; auto: unless the endpoint refuses it; null: false
    at_cap: str = "stop"  # where the budget is spent: stop the run, or abstain from the rest, which is counted
    request: dict[str, Any] = field(default_factory=dict)  # further keys of each request; null takes one out
    endpoint: Endpoint = field(default_factory=Endpoint)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_cap not in AT_CAP:
            raise ValueError(f"scorer.at_cap must be one of {', '.join(AT_CAP)}, got {self.at_cap!r}")
        self._chat()

    @property
    def intransitive(self) -> bool:
        return True

    @property
    def loads_model(self) -> bool:
        return False  # it waits for one that is elsewhere

    @property
    def cache_format(self) -> None:
        return None  # it keeps the replies itself

    def fingerprint(self) -> str:
        """Hash of all that is sent but the answers: the model's name, the template's text, how it is decoded."""
        return digest(self._chat().public(self._template().replace(MARK, "")))

    def check(self) -> None:
        """Raise ValueError where the template, the cache, the client or its key is not there. Nothing is sent."""
        self._template()
        self.endpoint.check()
        self.budget.open().close()

    def open(self, place: Place) -> PairJudge:
        """Raises ValueError where the template or the cache cannot be read."""
        asker = ChatClient(
            self._chat(),
            self.endpoint,
            self.budget,
            reads=lambda reply: preference(reply) is not None,
            at_cap=self.at_cap,
        )
        return PairJudge(self, asker, self._template())

    @property
    def reply_tokens(self) -> int:
        """The most tokens that a reply may take."""
        return self._chat().most("")[1]

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
    """A judge of pairs at work."""

    spec: Judge
    asker: ChatClient
    template: str

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask what is not known yet; equal texts are not compared.

        P(first beats second) is the mean over both orders. Without a clear verdict in both, the judge abstains; so it
        does where a question failed. The verdicts are inconsistent where both orders prefer the same place. Those, and
        the matches of which a question was beyond a cap of the budget, are marked: `inconsistent`, `capped`.
        Raises EndpointError, or CapReached where `at_cap` is stop; what was answered until then is kept.
        """
        counts = Counter[str]()

        def ask(matches: Sequence[Match]) -> list[PairVerdict]:
            return self._ask(matches, counts)

        scored = self.spec.compare(rollouts, ask, marks=["inconsistent", "capped"])
        return replace(scored, counts={**counts, **scored.counts})

    def close(self) -> None:
        """Close the cache."""
        self.asker.close()

    def _ask(self, matches: Sequence[Match], counts: Counter[str]) -> list[PairVerdict]:
        """What the judge says of matches. Adds to the counts."""
        orders = [(self._question(match), self._question(match, swapped=True)) for match in matches]
        replies = self.asker.ask(dict(one for both in orders for one in both))
        asked = [(forth[0], back[0]) for forth, back in orders]
        said = [self._settled(replies, both) for both in asked]
        known = replies.known.keys()
        causes = Counter(why for both in asked if (why := _cause(replies, both)) is not None)
        if self.spec.at_cap != "abstain":
            causes.pop("capped", None)
        counts.update(
            {
                "judge/queries": sum(not replies.asked.isdisjoint(both) for both in asked),
                "judge/cached": sum(replies.asked.isdisjoint(both) and known >= {*both} for both in asked),
                "judge/inconsistent": sum(one.mark == "inconsistent" for one in said),
                **{f"judge/{cause}": causes[cause] for cause in CAUSES if cause != "capped"},
                **({"judge/capped": causes["capped"]} if self.spec.at_cap == "abstain" else {}),
                **replies.counts(self.spec.budget),
            }
        )
        return said

    def _settled(self, replies: Replies, both: tuple[str, str]) -> PairVerdict:
        if not replies.capped.isdisjoint(both):
            return PairVerdict(math.nan, "capped")
        return settled(*(_said(replies, question) for question in both), inconsistent=self.spec.inconsistent)

    def _question(self, match: Match, *, swapped: bool = False) -> tuple[str, str]:
        first, second = (match.second, match.first) if swapped else (match.first, match.second)
        talked = talk(match.prompt.messages)
        return question(self.template, conversation=talked, first=first.text, second=second.text)


def _said(replies: Replies, question: str) -> float:
    """P(the one in the first place is better); NaN if there is no reply, or no verdict in it."""
    reply = replies.known.get(question)
    said = None if reply is None else preference(reply)
    return math.nan if said is None else said


def _cause(replies: Replies, both: tuple[str, str]) -> str | None:
    """Why a match has no verdict: the gravest cause of its two questions; None if both have one."""
    causes = {replies.cause(question) for question in both if math.isnan(_said(replies, question))}
    return next((cause for cause in CAUSES if cause in causes), None)
