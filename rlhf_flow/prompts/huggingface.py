"""Prompts from a Hugging Face data set: a name on the hub, a local folder of files, or what `save_to_disk` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.prompts.deal import Dealt
from rlhf_flow.prompts.rows import Row
from rlhf_flow.prompts.spec import PromptSpec

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class HuggingFace(PromptSpec):
    """Prompts from a Hugging Face data set. Rows are counted from 1 within their split."""

    path: str  # name on the hub, or a local folder
    config: str | None = None  # of data sets that have several
    split: str = "train"  # of the data set, for training
    revision: str | None = None  # of a data set on the hub
    held_out_split: str | None = None  # prompts for evaluation from a split of their own

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dealt:
        """Read and check everything. Raises ValueError with split, row, expectation, finding and way out."""
        apart = None if self.held_out_split is None else self._rows(self.held_out_split)
        return self.deal(self._rows(self.split), apart, tokenizer=tokenizer, seed=seed)

    def _rows(self, split: str) -> list[Row]:
        dataset = self._load(split)
        where = f"{self.path}, split {split}"
        if not len(dataset):
            raise ValueError(f"{where}: expected rows, found an empty split.")
        return [Row(f"{where}, row {at}", at, dict(values)) for at, values in enumerate(dataset, start=1)]

    def _load(self, split: str) -> Dataset:
        from datasets import load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

        saved = any((Path(self.path) / name).is_file() for name in ("dataset_dict.json", "state.json"))
        try:
            if saved:
                return _split(load_from_disk(self.path), split)
            return load_dataset(self.path, self.config, split=split, revision=self.revision)
        except (DatasetsError, OSError, ValueError) as error:
            raise ValueError(
                f"prompts.path must be a Hugging Face data set with prompts.config={self.config}, split {split!r} and "
                f"prompts.revision={self.revision}; loading {self.path!r} failed: {error}"
            ) from error


def _split(saved: Dataset | dict[str, Dataset], split: str) -> Dataset:
    if not isinstance(saved, dict):  # a folder that holds one split, which knows its name or has none
        saved = {split if saved.split is None else str(saved.split): saved}
    if split not in saved:
        raise ValueError(f"the splits there are: {', '.join(saved)}")
    return saved[split]
