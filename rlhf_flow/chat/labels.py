"""Labels of answers in a chat, as rows of prompt, chosen and rejected, which runs and `train-reward` read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf_flow.config.overrides import from_mapping
from rlhf_flow.system.private_sqlite import FILE_MODE
from rlhf_flow.types import Message

ANNOTATOR = "chat"
FIRST, SECOND, TIE = "1", "2", "="
ORDERS = {FIRST: ((0, 1),), SECOND: ((1, 0),), TIE: ((0, 1), (1, 0))}  # the verdict -> chosen and rejected of each row
CANDIDATES = {"chosen": "chosen", "rejected": "rejected"}


def keys_of_next_rounds(path: Path) -> list[str]:
    """The overrides with which further rounds of a run train on the labels of a file too."""
    given = {"path": str(path.resolve()), "columns.candidates": CANDIDATES}
    return from_mapping({"prompts@given.prompts": "jsonl", "given.prompts": given})


def append_label(
    path: Path, messages: Sequence[Message], answers: Sequence[str], models: Sequence[str], verdict: str
) -> None:
    """Append the rows of a verdict on two answers to a file of JSON lines: one, or two of a tie."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(FILE_MODE)  # labels are private to their user
    with path.open("a", encoding="utf-8") as file:
        for better, worse in ORDERS[verdict]:
            row = {
                "prompt": [asdict(message) for message in messages],
                "chosen": answers[better],
                "rejected": answers[worse],
                "annotator": ANNOTATOR,
                "chosen_model": models[better],
                "rejected_model": models[worse],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
