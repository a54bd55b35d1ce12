"""Prompts from files: JSON lines, and every other format that `files` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.prompts.files import all_files, read, read_held_out
from rlhf_flow.prompts.parse import Rows
from rlhf_flow.prompts.source import PromptSpec


@dataclass(frozen=True, kw_only=True)
class Jsonl(PromptSpec):
    """Prompts from a file of JSON lines, JSON, CSV, text (a prompt a line) or parquet; also gzip, zstd, bz2 and xz.

    Blank lines are skipped; ids that are made from row numbers count lines.
    """

    path: str  # a file, a folder of files, or a pattern: data/*.jsonl.gz
    held_out_path: str | None = None  # file with the prompts for evaluation

    def rows(self) -> Rows:
        return read(self.path, "prompts.path", self.limits)

    def held_out_rows(self) -> Rows | None:
        return read_held_out(self.held_out_path, self.limits)

    def files(self) -> list[Path]:
        return all_files(self.path, self.held_out_path)
