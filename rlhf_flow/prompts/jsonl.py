"""Prompts from files: JSON lines, and every other kind that `files` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.prompts.epochs import Dealt
from rlhf_flow.prompts.files import found, read
from rlhf_flow.prompts.source import PromptSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Jsonl(PromptSpec):
    """Prompts from a file of JSON lines, JSON, CSV, text (a prompt a line) or parquet; also gzip, zstd, bz2 and xz.

    Blank lines are passed over; ids that are made from row numbers count lines.
    """

    path: str  # a file, a folder of files, or a pattern: data/*.jsonl.gz
    held_out_path: str | None = None  # prompts for evaluation from a file of their own

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dealt:
        """Read and check everything. Raises ValueError with file, line, expectation, finding and way out."""
        return open_files(self, self.path, self.held_out_path, tokenizer=tokenizer, seed=seed)


def open_files(
    spec: PromptSpec, path: str, held_out_path: str | None, *, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Dealt:
    """The prompts of files, and those for evaluation if they have files of their own."""
    rows, files = read(path, "prompts.path", spec.limits), found(path, "prompts.path")
    apart = None
    if held_out_path is not None:
        apart = read(held_out_path, "prompts.held_out_path", spec.limits)
        files += found(held_out_path, "prompts.held_out_path")
    return spec.deal(rows, apart, tokenizer=tokenizer, seed=seed, files=files)
