"""What a user of the embedded world asks for: a request, its wordings, and the reading of any prompt as a request.

Frozen, like the lexicon.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from rlhf_flow.sandbox.lexicon import KINDS, TONES, TOPICS

T = TypeVar("T")

NUMBERS = ("one", "two", "three", "four", "five")
COUNTS = (1, 2, 3)  # sentences

ASKS: dict[str, tuple[str, ...]] = {
    "advice": (
        "give me {n} tip{s} about the {topic}",
        "I need {n} tip{s} for the {topic}",
        "write {n} tip{s} on the {topic}",
        "share {n} useful tip{s} for the {topic}",
    ),
    "description": (
        "describe the {topic} in {n} sentence{s}",
        "tell me about the {topic} in {n} sentence{s}",
        "write {n} sentence{s} about the {topic}",
        "I want {n} sentence{s} on the {topic}",
    ),
}
REASONS = (" and say why", " with a reason", " and explain why", ", giving a reason")
TONED = (
    "{ask} in a {tone} tone.",
    "{ask}. Be {tone}.",
    "In a {tone} tone, {ask}.",
    "{ask}. Keep it {tone}.",
    "Be {tone}: {ask}.",
    "{ask}, and be {tone}, please.",
)

KIND_WORDS = {
    "tip": "advice",
    "tips": "advice",
    "sentence": "description",
    "sentences": "description",
}


@dataclass(frozen=True)
class Request:
    """What is asked; None where a prompt does not say."""

    kind: str | None
    topic: str | None
    tone: str | None
    count: int | None  # sentences
    reason: bool


def every_request() -> tuple[Request, ...]:
    """All that can be asked, in a fixed order."""
    return tuple(
        Request(kind=kind, topic=topic, tone=tone, count=count, reason=reason)
        for kind in KINDS
        for topic in TOPICS
        for tone in TONES
        for count in COUNTS
        for reason in (False, True)
    )


def word(request: Request, rng: random.Random) -> str:
    """One of the wordings of a request that says everything."""
    assert request.kind is not None and request.count is not None
    ask = rng.choice(ASKS[request.kind]).format(
        n=NUMBERS[request.count - 1], s="" if request.count == 1 else "s", topic=request.topic
    )
    text = rng.choice(TONED).format(ask=ask + (rng.choice(REASONS) if request.reason else ""), tone=request.tone)
    return text[0].upper() + text[1:]


def understand(text: str) -> Request:
    """Read any prompt by its words. What is missing, or said in two ways, is not asked for."""
    words = re.findall(r"[a-z]+|[0-9]+", text.lower())
    return Request(
        kind=_only(KIND_WORDS[word] for word in words if word in KIND_WORDS),
        topic=_only(word for word in words if word in TOPICS),
        tone=_only(word for word in words if word in TONES),
        count=_only(NUMBERS.index(word) + 1 for word in words if word in NUMBERS),
        reason=any(word in ("why", "reason") for word in words),
    )


def _only(found: Iterable[T]) -> T | None:
    values = set(found)
    return values.pop() if len(values) == 1 else None
