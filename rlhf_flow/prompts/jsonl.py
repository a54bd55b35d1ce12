"""Prompts from a JSON-lines file: one JSON object a line, UTF-8."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.prompts.deal import Dealt
from rlhf_flow.prompts.rows import Row, shown
from rlhf_flow.prompts.spec import PromptSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Jsonl(PromptSpec):
    """Prompts from a JSON-lines file. Blank lines are passed over; ids that are made from row numbers count lines."""

    path: str  # the file
    held_out_path: str | None = None  # prompts for evaluation from a file of their own

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dealt:
        """Read and check everything. Raises ValueError with file, line, expectation, finding and way out."""
        apart = None if self.held_out_path is None else read(self.held_out_path, "prompts.held_out_path")
        return self.deal(read(self.path, "prompts.path"), apart, tokenizer=tokenizer, seed=seed)


def read(path: str, key: str) -> list[Row]:
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{key} must be a JSON-lines file, and {str(file.absolute())!r} is not a file. Correct {key}.")
    rows = []
    with file.open("rb") as lines:  # in bytes: only \n ends a line, whatever other line ends stand inside a text
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{path}, line {number}"
                rows.append(Row(place, number, _object(place, line.removeprefix(b"\xef\xbb\xbf"))))
    if not rows:
        raise ValueError(f"{path}: expected a JSON object on each line, found an empty file. Correct {key}.")
    return rows


def _object(place: str, line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: expected UTF-8, found byte 0x{line[error.start]:02x} at column "
            f"{error.start + 1}. Save it as UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: expected one JSON object, found {shown(line.decode().strip())} "
            f"({error.msg} at column {error.colno}). Correct or remove the line."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected a JSON object, found {shown(value)}. Correct or remove the line.")
    return value
