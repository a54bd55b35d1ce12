"""Stores a run in memory, for games and unit tests whose rounds are faster than a disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.storage.tables import Shard, Table
from rlhf_flow.types import RoundRecord


@dataclass(frozen=True)
class InMemoryShard:
    """Rows in the memory of this process."""

    data: pa.Table

    @property
    def rows(self) -> int:
        return self.data.num_rows

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return self.data if columns is None else self.data.select(columns)


@dataclass
class InMemoryStageWriter:
    """Keeps tables in memory and drops texts. Checkpoints go to `root`, a temporary folder of the store."""

    root: Path
    tables: dict[str, InMemoryShard] = field(default_factory=dict)

    def table(self, name: str, rows: pa.Table) -> Shard:
        self.tables[name] = shard = InMemoryShard(rows)
        return shard

    def text(self, name: str, text: str) -> None:
        pass

    def save(self, name: str, write: Callable[[Path], Mapping[str, str]]) -> None:
        write(self.root / name)


@dataclass
class InMemory:
    """A `Store` that keeps records and tables, and writes no checkpoints, pointers or pruning marks."""

    records: list[RoundRecord] = field(default_factory=list)
    _stages: dict[int, dict[str, StageRecord]] = field(default_factory=dict)
    _tables: dict[int, dict[str, InMemoryShard]] = field(default_factory=dict)
    _temporary: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    @property
    def durable(self) -> bool:
        return False

    @property
    def root(self) -> Path:
        return Path(self._temporary.name)

    def folder(self, round: int) -> Path:
        return self.root / f"{round:05d}"

    def committed(self, round: int, stage: str) -> StageRecord | None:
        return self._stages.get(round, {}).get(stage)

    def has_stages(self, round: int) -> bool:
        return round in self._stages

    def commit(
        self, round: int, stage: str, write: Callable[[StageWriter], StageFacts], *, spent: float = 0.0
    ) -> StageRecord:
        if record := self.committed(round, stage):
            return record
        writer = InMemoryStageWriter(self.folder(round))
        began = time.perf_counter() - spent
        facts = write(writer)
        seconds = time.perf_counter() - began
        self._tables.setdefault(round, {}).update(writer.tables)
        rows = {path: shard.rows for path, shard in writer.tables.items()}
        return self._keep(round, StageRecord(name=stage, files={}, rows=rows, facts=facts, seconds=seconds))

    def commit_behind(self, round: int, stages: Sequence[str], work: Callable[[], None]) -> None:
        work()

    def commit_merged(self, round: int, stage: str, chunks: Sequence[StageRecord]) -> StageRecord:
        return self.committed(round, stage) or self._keep(round, StageRecord.merged(stage, chunks))

    def table(self, round: int, stage: str, prefix: str = "") -> Table:
        record = self.committed(round, stage)
        assert record is not None, f"round {round} has no stage {stage}"
        return Table(tuple(self._tables[round][path] for path in sorted(record.rows) if path.startswith(prefix)))

    def close_round(self, record: RoundRecord) -> None:
        assert record.round == len(self.records), f"round {record.round} closes after {len(self.records)} records"
        self.records.append(record)

    def release(self, *, before: int) -> None:
        for round in [round for round in self._tables if 0 < round < before]:
            del self._tables[round]

    def point(self, name: str, facts: StageFacts) -> None:
        pass

    def prune(self, round: int, folders: Iterable[str]) -> None:
        pass

    def has(self, round: int, folder: str) -> bool:
        return False  # the loop holds the policies

    def close(self) -> None:
        self._temporary.cleanup()

    def _keep(self, round: int, record: StageRecord) -> StageRecord:
        self._stages.setdefault(round, {})[record.name] = record
        return record
