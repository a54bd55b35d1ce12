"""What travels between stages: rows that were put down once, opened where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from rlhf_flow.protocols import Objective


class Shard(Protocol):
    """Rows that were put down once and can be read again."""

    @property
    def rows(self) -> int: ...

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in order; only `columns` where given."""
        ...


@dataclass(frozen=True)
class FileShard:
    """Rows in a parquet file on a disk that every worker sees."""

    path: Path
    sha256: str
    rows: int

    def read(self, columns: list[str] | None = None) -> pa.Table:
        import pyarrow.parquet as pq

        # threads off: one file, one reader, nothing left running when a worker is killed
        return pq.read_table(self.path, columns=columns, use_threads=False)


@dataclass(frozen=True)
class Table:
    """Rows that were committed, in shards. Opened where they are needed, column by column."""

    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in order; only `columns` where given."""
        import pyarrow as pa

        return pa.concat_tables(list(self.read_shards(columns)))

    def read_shards(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        return (shard.read(columns) for shard in self.shards)


@dataclass(frozen=True)
class RoundTables:
    """What one round leaves for the learner: its pairs, and the responses that they name."""

    round: int
    responses: Table
    pairs: Table
    kept: tuple[int, ...] | None = None  # the rows of `pairs` that are learned from; None: all

    def read_pairs(self, columns: list[str] | None = None) -> pa.Table:
        """The pairs that are learned from, in order."""
        pairs = self.pairs.read(columns)
        return pairs if self.kept is None else pairs.take(list(self.kept))


@dataclass(frozen=True)
class TrainingRound:
    """What the learner is taught in one round. A pure function of committed files, so it can be replayed."""

    round: int
    rounds: int  # of the whole run; a learning-rate schedule may span them
    seed: int
    tables: tuple[RoundTables, ...]
    anchors: Table  # columns: response, policy (sha256), logps list<float32>
    roles: Mapping[str, str]  # anchor name -> sha256 of the policy that plays it this round
    objective: Objective
