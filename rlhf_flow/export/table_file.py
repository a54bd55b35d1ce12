"""Writes rows to a parquet or JSONL file, piece by piece, and puts it in place when it is complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1024  # in memory at a time

Rows = Iterable[dict[str, object]]


def write_rows(path: Path, rows: Rows, schema: pa.Schema) -> int:
    """Write the rows and return their number; no file without rows. The format follows the suffix.

    Raises ValueError for another suffix.
    """
    write = WRITERS.get(path.suffix)
    if write is None:
        raise ValueError(f"--out={path}: the suffix must be {' or '.join(WRITERS)}. Fix: {path.with_suffix('.jsonl')}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        written = write(temporary, rows, schema)
        if written:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _parquet(path: Path, rows: Rows, schema: pa.Schema) -> int:
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for piece in _pieces(rows):
            file.write_table(pa.Table.from_pylist(piece, schema=schema))
            written += len(piece)
    return written


def _jsonl(path: Path, rows: Rows, schema: pa.Schema) -> int:
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({name: row[name] for name in schema.names}, ensure_ascii=False) + "\n")
            written += 1
    return written


def _pieces(rows: Rows) -> Iterator[list[dict[str, object]]]:
    left = iter(rows)
    while piece := list(islice(left, ROWS)):
        yield piece


WRITERS: dict[str, Callable[[Path, Rows, pa.Schema], int]] = {".parquet": _parquet, ".jsonl": _jsonl}
