"""What a run leaves behind, stage by stage: entries, and where a stage puts what it makes.

`rlhf_flow.storage.ledger` keeps a run on disk, `rlhf_flow.storage.in_memory` for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.storage.tables import FileShard, Shard, Table
from rlhf_flow.types import RoundRecord

StageFacts = Mapping[str, object]  # of plain JSON values
STAGES = (  # in the order of a round
    "sample", "score", "late", "mismatch", "select", "anchor", "learn", "publish", "evaluate", "label", "refresh",
)  # fmt: skip


@dataclass(frozen=True)
class StageRecord:
    """A committed stage, or a committed piece of one."""

    name: str
    files: Mapping[str, str]  # path under the round's folder -> sha256
    rows: Mapping[str, int]  # path of a parquet file -> rows
    facts: StageFacts  # what the stage has to say: metrics, hashes, counts
    seconds: float


class StageWriter(Protocol):
    """Where a stage puts what it makes. Nothing on it exists for others before the stage is committed."""

    def table(self, name: str, rows: pa.Table) -> Shard:
        """Put down rows under `name`, and read them again at once where needed."""
        ...

    def text(self, name: str, text: str) -> None: ...

    def folder(self, name: str) -> Path:
        """A folder, not made yet, for what writes files itself: a checkpoint."""
        ...


class Store(Protocol):
    """What the loop asks of whatever keeps a run; `Ledger` says what each method does."""

    records: list[RoundRecord]

    @property
    def durable(self) -> bool:
        """Whether what is kept outlives the process, so that checkpoints and pointers to them mean something."""
        ...

    @property
    def root(self) -> Path: ...

    def folder(self, round: int) -> Path: ...

    def entry(self, round: int, name: str) -> StageRecord | None: ...

    def untouched(self, round: int) -> bool: ...

    def commit(self, round: int, name: str, write: Callable[[StageWriter], StageFacts]) -> StageRecord: ...

    def commit_merged(self, round: int, name: str, pieces: Callable[[], Sequence[StageRecord]]) -> StageRecord: ...

    def table(self, round: int, entry: StageRecord) -> Table: ...

    def close_round(self, record: RoundRecord) -> None: ...

    def release(self, *, before: int) -> None: ...

    def point(self, name: str, facts: StageFacts) -> None: ...

    def prune(self, round: int, folders: Iterable[str]) -> None: ...

    def has(self, round: int, folder: str) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class FolderStageWriter:
    """A shelf that is a folder aside."""

    root: Path

    def table(self, name: str, rows: pa.Table) -> Shard:
        """Write rows as `<name>.parquet`; the same rows give the same bytes."""
        path = self._path(f"{name}.parquet")
        pq.write_table(rows, path, compression="zstd")
        return FileShard(path, sha256="", rows=rows.num_rows)

    def text(self, name: str, text: str) -> None:
        self._path(name).write_text(text)

    def folder(self, name: str) -> Path:
        return self.root / name

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def summed(parts: Sequence[StageRecord]) -> StageFacts:
    """The facts of a stage that was committed in pieces."""
    facts: dict[str, object] = {}
    for part in parts:
        for key, value in part.facts.items():
            assert isinstance(value, int | float), f"a piece's facts are summed, but {key} is {value!r}"
            total = facts.get(key, 0)
            assert isinstance(total, int | float)
            facts[key] = total + value
    return facts
