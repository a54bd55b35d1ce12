"""What the loop asks of the storage of a run.

`rlhf_flow.storage.ledger` stores a run on disk, `rlhf_flow.storage.in_memory` in the memory of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.storage.tables import FileShard, Shard, Table
from rlhf_flow.types import RoundRecord

StageFacts = Mapping[str, object]  # plain JSON values
STAGES = (  # in the order of a round
    "sample", "score", "late", "mismatch", "select", "anchor", "learn", "publish", "evaluate", "label", "refresh",
)  # fmt: skip


@dataclass(frozen=True)
class StageRecord:
    """A committed stage, or a committed chunk of one (`sample.00003`)."""

    name: str
    files: Mapping[str, str]  # path under the round's folder -> sha256
    rows: Mapping[str, int]  # path of a parquet file -> rows
    facts: StageFacts  # metrics, hashes, counts
    seconds: float

    @classmethod
    def merged(cls, name: str, chunks: Sequence[StageRecord]) -> StageRecord:
        """One record with the files of all chunks. Facts and seconds are summed."""
        facts: dict[str, object] = {}
        for chunk in chunks:
            for key, value in chunk.facts.items():
                total = facts.get(key, 0)
                assert isinstance(value, int | float) and isinstance(total, int | float), f"{key} is {value!r}"
                facts[key] = total + value
        return cls(
            name=name,
            files={path: sha for chunk in chunks for path, sha in chunk.files.items()},
            rows={path: rows for chunk in chunks for path, rows in chunk.rows.items()},
            facts=facts,
            seconds=sum(chunk.seconds for chunk in chunks),
        )


class StageWriter(Protocol):
    """Takes the output of a stage. Other stages see it once the stage is committed."""

    def table(self, name: str, rows: pa.Table) -> Shard:
        """Write rows as `<name>.parquet`. The shard can be read at once."""
        ...

    def text(self, name: str, text: str) -> None: ...

    def save(self, name: str, write: Callable[[Path], Mapping[str, str]]) -> None:
        """Call `write` with the path of a folder, not created yet, into which it writes files itself (checkpoints).

        It returns the sha256 of the files that it has flushed to disk, by path in the folder; the store hashes the
        others.
        """
        ...


class Store(Protocol):
    """Implemented by `Ledger`, which documents each method, and by `InMemory`."""

    records: list[RoundRecord]

    @property
    def durable(self) -> bool:
        """Whether the data outlives the process. If not, checkpoints and pointers to them are not written."""
        ...

    @property
    def root(self) -> Path: ...

    def folder(self, round: int) -> Path: ...

    def committed(self, round: int, stage: str) -> StageRecord | None: ...

    def has_stages(self, round: int) -> bool: ...

    def commit(
        self, round: int, stage: str, write: Callable[[StageWriter], StageFacts], *, spent: float = 0.0
    ) -> StageRecord: ...

    def commit_behind(self, round: int, stages: Sequence[str], work: Callable[[], None]) -> None: ...

    def commit_merged(self, round: int, stage: str, chunks: Sequence[StageRecord]) -> StageRecord: ...

    def table(self, round: int, stage: str, prefix: str = "") -> Table: ...

    def close_round(self, record: RoundRecord) -> None: ...

    def release(self, *, before: int) -> None: ...

    def point(self, name: str, facts: StageFacts) -> None: ...

    def prune(self, round: int, folders: Iterable[str]) -> None: ...

    def has(self, round: int, folder: str) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class FolderStageWriter:
    """Writes into a staging folder."""

    root: Path
    hashes: dict[str, str] = field(default_factory=dict)  # of files that are flushed, by path in the staging folder

    def table(self, name: str, rows: pa.Table) -> Shard:
        """Write rows as `<name>.parquet`; equal rows give equal bytes."""
        path = self._path(f"{name}.parquet")
        repeating = [field.name for field in rows.schema if not pa.types.is_list(field.type)]
        pq.write_table(rows, path, compression="zstd", use_dictionary=repeating)  # log-probs hardly repeat
        return FileShard(path, sha256="", rows=rows.num_rows)

    def text(self, name: str, text: str) -> None:
        self._path(name).write_text(text)

    def save(self, name: str, write: Callable[[Path], Mapping[str, str]]) -> None:
        hashes = write(self.root / name)
        self.hashes.update({f"{name}/{file}": sha256 for file, sha256 in hashes.items()})

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
