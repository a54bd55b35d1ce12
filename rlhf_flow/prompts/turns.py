"""Every assistant turn of a conversation as a question of its own: the turns before it, and the turn as the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlhf_flow.prompts.parse import Question
from rlhf_flow.types import Message

TURN = " turn "  # between the id of a row and the number of the turn


def each_turn(asked: Question) -> list[Question]:
    """The questions in the order of the turns. Raises ValueError if the row has other than one answer.

    An assistant turn without a user turn before it answers nothing and is context only.
    """
    if len(asked.candidates) != 1:
        raise ValueError(
            "prompts.columns.every_turn trains on conversations with one answer, and prompts.columns.candidates names "
            f"{', '.join(asked.candidates) or 'none'}. Fix: name one, or prompts.columns.every_turn=false."
        )
    ((name, last),) = asked.candidates.items()
    chat = (*asked.messages, Message("assistant", last))
    return [
        replace(asked, id=f"{asked.id}{TURN}{at}", messages=chat[:at], candidates={name: chat[at].content})
        for at in _answers(chat)
    ]


def _answers(chat: Sequence[Message]) -> list[int]:
    """The places of the assistant turns after a user turn."""
    roles = [message.role for message in chat]
    return [at for at, role in enumerate(roles) if role == "assistant" and "user" in roles[:at]]
