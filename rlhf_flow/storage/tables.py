"""Committed rows that are passed between stages by reference and read where they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class Shard(Protocol):
    """Immutable rows that can be read any number of times."""

    @property
    def rows(self) -> int: ...

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in order; only `columns` if given."""
        ...


@dataclass(frozen=True)
class FileShard:
    """Rows in a parquet file on a disk that every worker sees."""

    path: Path
    sha256: str
    rows: int

    def read(self, columns: list[str] | None = None) -> pa.Table:
        import pyarrow.parquet as pq

        # without threads: a worker that is killed leaves none behind
        return pq.read_table(self.path, columns=columns, use_threads=False)


@dataclass(frozen=True)
class Table:
    """Committed rows, in shards."""

    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in order; only `columns` if given."""
        import pyarrow as pa

        return pa.concat_tables(list(self.read_shards(columns)))

    def read_shards(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        return (shard.read(columns) for shard in self.shards)
