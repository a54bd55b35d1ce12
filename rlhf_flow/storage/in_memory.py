"""A run that is kept in memory alone: for games and unit tests, whose rounds take less time than a disk does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter, summed
from rlhf_flow.storage.tables import Shard, Table
from rlhf_flow.types import RoundRecord


@dataclass(frozen=True)
class HeldShard:
    """Rows in the memory of this process."""

    held: pa.Table

    @property
    def rows(self) -> int:
        return self.held.num_rows

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return self.held if columns is None else self.held.select(columns)


@dataclass
class HeldShelf:
    """A shelf in memory. Only checkpoints, which write files themselves, go to a folder that ends with the store."""

    aside: Path
    tables: dict[str, HeldShard] = field(default_factory=dict)

    def table(self, name: str, rows: pa.Table) -> Shard:
        self.tables[name] = shard = HeldShard(rows)
        return shard

    def text(self, name: str, text: str) -> None:
        """Texts are for people, who will not look here."""

    def folder(self, name: str) -> Path:
        return self.aside / name


@dataclass
class InMemory:
    """Keeps what `storage.ledger.Ledger` keeps, for as long as the process lives, and only what is read again."""

    records: list[RoundRecord] = field(default_factory=list)
    _entries: dict[int, dict[str, StageRecord]] = field(default_factory=dict)
    _tables: dict[int, dict[str, HeldShard]] = field(default_factory=dict)
    _aside: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    @property
    def durable(self) -> bool:
        return False

    @property
    def root(self) -> Path:
        return Path(self._aside.name)

    def folder(self, round: int) -> Path:
        return self.root / f"{round:05d}"

    def entry(self, round: int, name: str) -> StageRecord | None:
        return self._entries.get(round, {}).get(name)

    def untouched(self, round: int) -> bool:
        return round not in self._entries

    def commit(self, round: int, name: str, write: Callable[[StageWriter], StageFacts]) -> StageRecord:
        committed = self.entry(round, name)
        if committed is not None:
            return committed
        shelf = HeldShelf(self.folder(round))
        began = time.perf_counter()
        facts = write(shelf)
        seconds = time.perf_counter() - began
        self._tables.setdefault(round, {}).update(shelf.tables)
        rows = {path: shard.rows for path, shard in shelf.tables.items()}
        return self._keep(round, StageRecord(name=name, files={}, rows=rows, facts=facts, seconds=seconds))

    def commit_merged(self, round: int, name: str, pieces: Callable[[], Sequence[StageRecord]]) -> StageRecord:
        committed = self.entry(round, name)
        if committed is not None:
            return committed
        parts = pieces()
        rows = {path: rows for part in parts for path, rows in part.rows.items()}
        seconds = sum(part.seconds for part in parts)
        return self._keep(round, StageRecord(name=name, files={}, rows=rows, facts=summed(parts), seconds=seconds))

    def table(self, round: int, entry: StageRecord) -> Table:
        return Table(tuple(self._tables[round][path] for path in sorted(entry.rows)))

    def close_round(self, record: RoundRecord) -> None:
        assert record.round == len(self.records), f"round {record.round} closes after {len(self.records)} records"
        self.records.append(record)

    def release(self, *, before: int) -> None:
        for round in [round for round in self._tables if 0 < round < before]:
            del self._tables[round]

    def point(self, name: str, facts: StageFacts) -> None:
        """There is nothing on disk to point to."""

    def prune(self, round: int, folders: Iterable[str]) -> None:
        """Nothing that is kept here needs room."""

    def has(self, round: int, folder: str) -> bool:
        """Policies are in the memory of the loop; no folder stands for them."""
        return False

    def close(self) -> None:
        self._aside.cleanup()

    def _keep(self, round: int, entry: StageRecord) -> StageRecord:
        self._entries.setdefault(round, {})[entry.name] = entry
        return entry
