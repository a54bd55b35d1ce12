"""Scorers that ask a policy of the run: which protocol they have, and how the run answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rlhf_flow.types import Message, Rollouts, SamplingParams, Scored

ROLES = ("policy", "start")  # the policy whose answers are scored, or the start of the run


class Answers(Protocol):
    """Asks a policy of the run through the run's engine."""

    def __call__(self, chats: Sequence[Sequence[Message]], role: str, draw: SamplingParams) -> list[list[str]]:
        """The `draw.n` answers of a policy to each chat. Equal chats get equal answers. `role`: one of `ROLES`."""
        ...


@runtime_checkable
class AsksPolicy(Protocol):
    """A scorer that needs `Answers`. In an evaluation, `policy` is the start too, so that rounds are comparable."""

    def score_with(self, rollouts: Rollouts, answers: Answers) -> Scored: ...
