"""The rows of a parquet file. Their sizes are checked before any row is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.prompts.limits import Budget
from rlhf_flow.prompts.parse import Row
from rlhf_flow.system.errors import reason

BATCH = 64  # rows decoded together; small, because a dictionary-encoded value can stand for any number of large ones


def table_rows(file: Path, budget: Budget) -> Iterator[Row]:
    """Raises ValueError if the file is damaged, or, before it yields a row, if it exceeds a limit."""
    try:
        with pq.ParquetFile(file) as table:
            budget.add(f"{file}", 0, rows=table.metadata.num_rows)
            for at, batch in _batches(table):
                _check_size(file, at, batch, budget)
            for at, batch in _batches(table):
                for row, values in enumerate(_values(f"{file}, row {at}", batch)):
                    yield Row(f"{file}, row {at + row}", at + row, values)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ValueError(
            f"{file}: reading this parquet file failed ({str(error) or 'out of memory'}). Fix: copy or download the "
            "file again, or lower prompts.limits.row_mib."
        ) from error


def _batches(table: pq.ParquetFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The number of the first row of each batch, and the batch."""
    at = 1
    for batch in table.iter_batches(batch_size=BATCH, use_threads=False):
        yield at, batch
        at += batch.num_rows


def _check_size(file: Path, at: int, batch: pa.RecordBatch, budget: Budget) -> None:
    size = sum(map(_bytes, batch.columns))
    if size > budget.limits.row_bytes:
        for row in range(batch.num_rows):
            if sum(_bytes(column.slice(row, 1)) for column in batch.columns) > budget.limits.row_bytes:
                raise budget.row_too_large(f"{file}, row {at + row}")
    budget.add(f"{file}, row {at + batch.num_rows - 1}", size, rows=0)


def _values(place: str, batch: pa.RecordBatch) -> list[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a text that is not UTF-8, a date that Python cannot hold
        raise ValueError(
            f"{place} or soon after it: {reason(error)}. Fix: write the file anew without that value."
        ) from error
    return rows


def _bytes(values: pa.Array) -> int:
    """The size of the values as Python objects, where no two rows share a text."""
    if pa.types.is_dictionary(values.type):
        return _bytes(values.dictionary_decode())
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return int(values.nbytes) if values.type.value_type == pa.null() else _bytes(values.flatten())
    if pa.types.is_struct(values.type):
        return sum(map(_bytes, values.flatten()))
    return int(values.nbytes)
