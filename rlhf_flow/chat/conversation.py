"""The loop of a chat: a message, an answer of each model, a label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.chat.chat_model import ChatModel, Decoding
from rlhf_flow.chat.labels import ORDERS, SECOND, append_label
from rlhf_flow.chat.screen import Screen
from rlhf_flow.types import Message

NEW, QUIT = "/new", "/quit"


def converse(
    models: Sequence[ChatModel], screen: Screen, decoding: Decoding, *, labels: Path, system: str | None = None
) -> int:
    """Chat until the input ends; return the number of labels. Each is in the file before the next message.

    After a label the conversation goes on with the better answer, else with that of the first model.
    """
    start = [] if system is None else [Message("system", system)]
    messages, turn, labelled = list(start), 0, 0
    names = [model.name for model in models]
    while (line := screen.ask()) not in (None, QUIT):
        if line == NEW:
            messages = list(start)
            screen.tell("a new conversation")
        if not line or line == NEW:
            continue
        messages.append(Message("user", line))
        streams = [model.stream(messages, decoding, turn, side) for side, model in enumerate(models)]
        answers = screen.show(names, streams)
        verdict = screen.choose(ORDERS) if len(set(answers)) > 1 else None
        if verdict is not None:
            append_label(labels, messages, answers, names, verdict)
            labelled += 1
        messages.append(Message("assistant", answers[1 if verdict == SECOND else 0]))
        turn += 1
    return labelled
