"""Prompts from parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.prompts.decoding import is_parquet
from rlhf_flow.prompts.files import all_files, read, read_held_out
from rlhf_flow.prompts.parse import Rows
from rlhf_flow.prompts.source import PromptSpec


@dataclass(frozen=True, kw_only=True)
class Parquet(PromptSpec):
    """Prompts from a parquet file, a folder of them, or a pattern. Rows are counted from 1."""

    path: str  # a parquet file, a folder of them, or a pattern
    held_out_path: str | None = None  # file with the prompts for evaluation

    def rows(self) -> Rows:
        for file in self.files():
            if not is_parquet(file):
                raise ValueError(
                    f"{file}: expected a parquet file, found something else. Fix: prompts=jsonl, which reads JSON, CSV "
                    "and text."
                )
        return read(self.path, "prompts.path", self.limits)

    def held_out_rows(self) -> Rows | None:
        return read_held_out(self.held_out_path, self.limits)

    def files(self) -> list[Path]:
        return all_files(self.path, self.held_out_path)
