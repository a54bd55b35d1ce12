"""Prompts from a parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.prompts.deal import Dealt
from rlhf_flow.prompts.rows import Row
from rlhf_flow.prompts.spec import PromptSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Parquet(PromptSpec):
    """Prompts from a parquet file. Rows are counted from 1."""

    path: str  # the file
    held_out_path: str | None = None  # prompts for evaluation from a file of their own

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dealt:
        """Read and check everything. Raises ValueError with file, row, expectation, finding and way out."""
        apart = None if self.held_out_path is None else read(self.held_out_path, "prompts.held_out_path")
        return self.deal(read(self.path, "prompts.path"), apart, tokenizer=tokenizer, seed=seed)


def read(path: str, key: str) -> list[Row]:
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{key} must be a parquet file, and {str(file.absolute())!r} is not a file. Correct {key}.")
    try:
        table = pq.read_table(file, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: expected a parquet file, found something else or a damaged one ({error})."
        ) from error
    if not table.num_rows:
        raise ValueError(f"{path}: expected rows, found an empty table. Correct {key}.")
    return [Row(f"{path}, row {at}", at, values) for at, values in enumerate(table.to_pylist(), start=1)]
