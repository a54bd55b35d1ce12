"""Prompts from a Hugging Face data set: a name on the hub, a local folder of files, or what `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.prompts.epochs import Dealt
from rlhf_flow.prompts.limits import Budget
from rlhf_flow.prompts.parse import Row
from rlhf_flow.prompts.source import PromptSpec

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerBase

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves


@dataclass(frozen=True, kw_only=True)
class HuggingFace(PromptSpec):
    """Prompts from a Hugging Face data set. Rows are counted from 1 within their split."""

    path: str  # name on the hub, or a local folder
    config: str | None = None  # the subset, of data sets that have several
    split: str = "train"  # of the data set, for training
    revision: str | None = None  # of a data set on the hub
    held_out_split: str | None = None  # prompts for evaluation from a split of their own
    first: int | None = None  # rows of each split that are taken; None: all
    streaming: bool = False  # read rows as they come, without a copy on disk; for a data set of which `first` is a part

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first is not None and self.first < 1:
            raise ValueError(f"prompts.first={self.first}: must be >= 1. Fix: leave it out for all rows.")

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dealt:
        """Read and check everything. Raises ValueError with split, row, expectation, finding and way out."""
        apart = None if self.held_out_split is None else self._rows(self.held_out_split)
        return self.deal(self._rows(self.split), apart, tokenizer=tokenizer, seed=seed)

    def _rows(self, split: str) -> list[Row]:
        from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

        where = f"{self.path}, split {split}"
        budget = Budget(self.limits)
        rows = []
        try:
            dataset: Iterable[dict[str, object]] = self._load(split)
            for at, values in enumerate(islice(dataset, self.first), start=1):
                place = f"{where}, row {at}"
                budget.add(place, _characters(values))
                rows.append(Row(place, at, dict(values)))
        except (DatasetsError, OSError, ImportError, RuntimeError) as error:
            raise self._failed(split, error) from error
        if not rows:
            raise ValueError(f"{where}: expected rows, found an empty split. Fix: name another with prompts.split=…")
        return rows

    def _load(self, split: str) -> Dataset | IterableDataset:
        from datasets import load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError

        try:
            if any((Path(self.path) / name).is_file() for name in SAVED):
                dataset = _split(load_from_disk(self.path), split)
            else:
                dataset = load_dataset(
                    self.path, self.config, split=split, revision=self.revision, streaming=self.streaming
                )
        except (DatasetsError, OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
            raise self._failed(split, error) from error
        return dataset if self.streaming else dataset.with_format(None)  # a saved format would give arrays or tensors

    def _failed(self, split: str, error: BaseException) -> ValueError:
        return ValueError(
            f"prompts.path={self.path}: must be a Hugging Face data set with prompts.config={self.config}, "
            f"prompts.split={split} and prompts.revision={self.revision}, and loading it failed: {_causes(error)}. "
            "Fix: correct these keys, or prompts=jsonl for files that are here."
        )


def _split(saved: Dataset | dict[str, Dataset], split: str) -> Dataset:
    if not isinstance(saved, dict):  # a folder that holds one split, which knows its name or has none
        saved = {split if saved.split is None else str(saved.split): saved}
    if split not in saved:
        raise ValueError(f"the splits there are: {', '.join(saved)}")
    return saved[split]


def _causes(error: BaseException) -> str:
    """What the error and those behind it say: of an error while a data set is generated, the cause is the last."""
    said: list[str] = []
    at: BaseException | None = error
    while at is not None:
        text = str(at).strip().rstrip(".")
        if text and text not in said:
            said.append(text)
        at = at.__cause__ or at.__context__
    return " ← ".join(said) or type(error).__name__


def _characters(value: object) -> int:
    """About how large a value is in memory, in bytes."""
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str | bytes) else 8
