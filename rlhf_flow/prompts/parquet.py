"""Prompts from parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.prompts.decoding import is_parquet
from rlhf_flow.prompts.epochs import Dealt
from rlhf_flow.prompts.files import found
from rlhf_flow.prompts.jsonl import open_files
from rlhf_flow.prompts.source import PromptSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Parquet(PromptSpec):
    """Prompts from a parquet file, a folder of them, or a pattern. Rows are counted from 1."""

    path: str  # the file
    held_out_path: str | None = None  # prompts for evaluation from a file of their own

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dealt:
        """Read and check everything. Raises ValueError with file, row, expectation, finding and way out."""
        for key, path in (("prompts.path", self.path), ("prompts.held_out_path", self.held_out_path)):
            for file in [] if path is None else found(path, key):
                if not is_parquet(file):
                    raise ValueError(
                        f"{key}={file}: expected a parquet file, found something else. Fix: prompts=jsonl, which reads "
                        "JSON, CSV and text."
                    )
        return open_files(self, self.path, self.held_out_path, tokenizer=tokenizer, seed=seed)
