"""What people are asked, and what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rlhf_flow.types import Message

# P(first beats second) as the annotator says it; bad: both are, and neither is better
VERDICTS = {"first": 1.0, "second": 0.0, "tie": 0.5, "bad": 0.5, "skip": None}
SKIPPERS = 2  # annotators, at least, that must skip a question before it is withdrawn


@dataclass(frozen=True)
class Question:
    """Two answers to a conversation, as they are put before people."""

    messages: tuple[Message, ...]
    first: str
    second: str

    @cached_property
    def key(self) -> str:
        """What it is told apart by: the same texts in the same order are the same question."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def content(self) -> str:
        """As it is written down."""
        messages = [[message.role, message.content] for message in self.messages]
        return json.dumps([messages, self.first, self.second])

    @classmethod
    def read(cls, content: str) -> Question:
        messages, first, second = json.loads(content)
        return cls(tuple(Message(role, text) for role, text in messages), first, second)


@dataclass(frozen=True)
class Standing:
    """What was said about a question so far."""

    needed: int  # verdicts, of different annotators
    due: float | None  # seconds since the epoch: until when they are waited for
    said: Mapping[str, str]  # annotator -> one of VERDICTS
    awaited: bool = False  # whether another annotator is labelling and may still decide

    @property
    def verdicts(self) -> list[float]:
        """P(first beats second), of each annotator who has one."""
        return [p for p in map(VERDICTS.__getitem__, self.said.values()) if p is not None]

    @property
    def settled(self) -> bool:
        """Whether enough annotators have a verdict, or too many have skipped it."""
        return len(self.verdicts) >= self.needed or self.skipped

    @property
    def skipped(self) -> bool:
        """Whether it is no question for people: enough have skipped it, two at least while others are labelling."""
        skips = list(self.said.values()).count("skip")
        return skips >= self.needed and (skips >= SKIPPERS or not self.awaited)

    def overdue(self, now: float) -> bool:
        """Whether it is not settled, and not waited for any more."""
        return not self.settled and self.due is not None and self.due <= now


@dataclass(frozen=True)
class Progress:
    """How far labelling is."""

    mine: int  # verdicts of one annotator, skipped questions among them
    asked: int
    open: int  # questions that need more verdicts
    skipped: int = 0  # those without enough verdicts that this annotator has skipped


@dataclass(frozen=True)
class Label:
    """What an annotator said of a question."""

    id: str
    question: Question
    annotator: str
    verdict: str  # one of VERDICTS
    comment: str
    at: float  # seconds since the epoch
