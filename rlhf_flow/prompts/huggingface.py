"""Prompts from a Hugging Face data set: a name on the hub, a local folder of files, or a `save_to_disk` folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.prompts.files import SAVED
from rlhf_flow.prompts.limits import Budget
from rlhf_flow.prompts.parse import Row, Rows
from rlhf_flow.prompts.source import PromptSpec
from rlhf_flow.system.hub import check_dataset, hub_errors

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset  # type: ignore[import-untyped]


@dataclass(frozen=True, kw_only=True)
class HuggingFace(PromptSpec):
    """Prompts from a Hugging Face data set. Rows are counted from 1 within their split."""

    path: str  # name on the hub, or a local folder
    config: str | None = None  # the subset, of data sets that have several
    split: str = "train"  # of the data set, for training
    revision: str | None = None  # of a data set on the hub
    held_out_split: str | None = None  # split with the prompts for evaluation
    first: int | None = None  # rows of each split that are taken; None: all
    streaming: bool = False  # read rows without a copy on disk; for a large data set of which `first` takes a part

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first is not None and self.first < 1:
            raise ValueError(f"prompts.first={self.first}: must be >= 1. Fix: leave it out for all rows.")

    def rows(self) -> Rows:
        return self._rows(self.split)

    def held_out_rows(self) -> Rows | None:
        return None if self.held_out_split is None else self._rows(self.held_out_split)

    def _rows(self, split: str) -> list[Row]:
        from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

        where = f"{self.path}, split {split}"
        budget = Budget(self.limits)
        rows = []
        try:
            dataset: Iterable[dict[str, object]] = self._load(split)
            for at, values in enumerate(islice(dataset, self.first), start=1):
                place = f"{where}, row {at}"
                budget.add(place, _bytes(values))
                rows.append(Row(place, at, dict(values)))
        except (DatasetsError, *hub_errors(), ImportError, RuntimeError) as error:
            raise self._failed(split, error) from error
        if not rows:
            raise ValueError(f"{where}: expected rows, found an empty split. Fix: name another with prompts.split=…")
        return rows

    def _load(self, split: str) -> Dataset | IterableDataset:
        from datasets import load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError

        check_dataset("prompts.path", self.path)
        saved = any((Path(self.path) / name).is_file() for name in SAVED)
        if saved:
            self._check_saved()
        try:
            if saved:
                dataset = _split(load_from_disk(self.path), split)
            else:
                dataset = load_dataset(
                    self.path, self.config, split=split, revision=self.revision, streaming=self.streaming
                )
        except (DatasetsError, *hub_errors(), ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
            raise self._failed(split, error) from error
        return dataset if self.streaming else dataset.with_format(None)  # a saved format would give arrays or tensors

    def _check_saved(self) -> None:
        unused = [key for key in ("config", "revision", "streaming") if vars(self)[key]]
        if unused:
            raise ValueError(
                f"prompts.{unused[0]}={vars(self)[unused[0]]}: {self.path} is a folder of `save_to_disk`, which has no "
                f"subsets and revisions and is read as a whole. Fix: leave prompts.{unused[0]} out."
            )

    def _failed(self, split: str, error: BaseException) -> ValueError:
        return ValueError(
            f"prompts.path={self.path}: must be a Hugging Face data set with prompts.config={self.config}, "
            f"prompts.split={split} and prompts.revision={self.revision}, and loading it failed: {_causes(error)}. "
            "Fix: correct these keys, or use prompts=jsonl for local files."
        )


def _split(saved: Dataset | dict[str, Dataset], split: str) -> Dataset:
    if not isinstance(saved, dict):  # a folder that holds one split, with or without its name
        saved = {split if saved.split is None else str(saved.split): saved}
    if split not in saved:
        raise ValueError(f"the splits there are: {', '.join(saved)}")
    return saved[split]


def _causes(error: BaseException) -> str:
    """The messages of an error and its causes. `datasets` gives the reason for a failed generation as the last one."""
    messages: list[str] = []
    at: BaseException | None = error
    while at is not None:
        messages.append(str(at).strip().rstrip("."))
        at = at.__cause__ or at.__context__
    return " ← ".join(dict.fromkeys(filter(None, messages))) or type(error).__name__


def _bytes(value: object) -> int:
    """The approximate size of a value in memory."""
    if isinstance(value, dict | list):
        return sum(map(_bytes, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str | bytes) else 8
