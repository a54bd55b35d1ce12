"""Answers are judged by what follows from them. RLHS, Liang et al. 2025, arXiv:2501.08617.

A policy of the run writes what happens after the answer; the scorer `base` reads the answer together with that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.asks_policy import ROLES, Answers, AsksPolicy
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.wrappers.around import Around
from rlhf_flow.types import Message, Response, Rollouts, SamplingParams, Scored

REQUEST = "I act on your answer. What happens next, and does it help me?"
ADDED = "{answer}\n\n(What happened next: {outcome})"


@dataclass(frozen=True)
class Hindsight(Around):
    """Each distinct answer is continued by a user's turn with `request`; `base` scores the answer and the reply."""

    base: Any = None  # any scorer: scorer@scorer.base=<name>
    by: str = "start"  # start (of the run) | policy (the one whose answers are scored) writes what follows
    request: str = REQUEST  # the user's turn after the answer
    temperature: float = 0.0  # of what follows
    max_tokens: int = 96  # of what follows

    cache_format: ClassVar[None] = None  # cache the base instead

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("by", f"one of {', '.join(ROLES)}", self.by in ROLES),
            ("request", "a text that is not empty", bool(self.request.strip())),
        )
        self.draw  # noqa: B018  # raises for impossible values

    @property
    def draw(self) -> SamplingParams:
        return SamplingParams("hindsight", n=1, temperature=self.temperature, max_tokens=self.max_tokens)

    @property
    def intransitive(self) -> bool:
        return bool(self.base.intransitive)

    def wrap(self, scorer: Scorer) -> HindsightJudge:
        """The scorer with hindsight, given the opened `base`. Raises ValueError if that one asks a policy too."""
        if isinstance(scorer, AsksPolicy):
            raise ValueError("scorer.base must be a scorer that asks no policy of the run. Fix: a judge or a model.")
        return HindsightJudge(self, scorer)


@dataclass(frozen=True)
class HindsightJudge:
    """An opened base that reads what follows from an answer."""

    spec: Hindsight
    base: Scorer

    def score(self, rollouts: Rollouts) -> Scored:
        """Raises ValueError: it needs the policies of a run."""
        raise ValueError("scorer=hindsight asks a policy of the run, which this command has not. Fix: its base alone.")

    def score_with(self, rollouts: Rollouts, answers: Answers) -> Scored:
        """The base's scores, of the responses as they were sampled."""
        groups = list(zip(rollouts.prompts, rollouts.responses, strict=True))
        chats = [
            (*prompt.messages, Message("assistant", one.text), Message("user", self.spec.request))
            for prompt, group in groups
            for one in group
        ]
        outcomes = iter(answers(chats, self.spec.by, self.spec.draw))
        told = tuple(tuple(_told(one, next(outcomes)[0]) for one in group) for _, group in groups)
        return replace(self.base.score(replace(rollouts, responses=told)), rollouts=rollouts)

    def close(self) -> None:
        """Close the base."""
        self.base.close()


def _told(response: Response, outcome: str) -> Response:
    return replace(response, text=ADDED.format(answer=response.text, outcome=outcome.strip()))
