"""Questions for annotators, and their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rlhf_flow.types import Message

# P(first beats second) of each verdict; bad: both answers are bad; None: no verdict
VERDICTS = {"first": 1.0, "second": 0.0, "tie": 0.5, "bad": 0.5, "skip": None}
SKIPPERS = 2  # minimum annotators that must skip a question before it is withdrawn


@dataclass(frozen=True)
class Question:
    """Two answers to a conversation, in the order in which annotators see them."""

    messages: tuple[Message, ...]
    first: str
    second: str

    @cached_property
    def key(self) -> str:
        """Hash of the content: the same texts in the same order are the same question."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def content(self) -> str:
        """As JSON."""
        messages = [[message.role, message.content] for message in self.messages]
        return json.dumps([messages, self.first, self.second])

    @classmethod
    def read(cls, content: str) -> Question:
        messages, first, second = json.loads(content)
        return cls(tuple(Message(role, text) for role, text in messages), first, second)


@dataclass(frozen=True)
class Standing:
    """The labels of a question so far."""

    needed: int  # verdicts, of different annotators
    due: float | None  # deadline in seconds since the epoch
    said: Mapping[str, str]  # annotator -> one of VERDICTS
    awaited: bool = False  # another annotator is active and has not labelled the question

    @property
    def verdicts(self) -> list[float]:
        """P(first beats second), of each annotator with a verdict."""
        return [p for p in map(VERDICTS.__getitem__, self.said.values()) if p is not None]

    @property
    def settled(self) -> bool:
        """Whether enough annotators have a verdict, or the question is withdrawn."""
        return len(self.verdicts) >= self.needed or self.skipped

    @property
    def skipped(self) -> bool:
        """Whether it is withdrawn: enough annotators skipped it, at least two while others are active."""
        skips = list(self.said.values()).count("skip")
        return skips >= self.needed and (skips >= SKIPPERS or not self.awaited)

    def overdue(self, now: float) -> bool:
        """Whether it is open past its deadline."""
        return not self.settled and self.due is not None and self.due <= now


@dataclass(frozen=True)
class Progress:
    """Counts for the labelling page."""

    mine: int  # labels of one annotator, skips included
    asked: int
    open: int  # questions that need more verdicts
    skipped: int = 0  # of the questions without enough verdicts, those that this annotator skipped


@dataclass(frozen=True)
class Label:
    """An annotator's label of a question."""

    id: str
    question: Question
    annotator: str
    verdict: str  # one of VERDICTS
    comment: str
    at: float  # seconds since the epoch
