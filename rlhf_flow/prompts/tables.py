"""The rows of a parquet file, measured before they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_flow.prompts.limits import Budget
from rlhf_flow.prompts.parse import Row

AT_ONCE = 64  # rows that are decoded together: a dictionary of one value can stand for any number of large ones


def table_rows(file: Path, budget: Budget) -> Iterator[Row]:
    """Raises ValueError if the file is damaged or exceeds a limit; the latter before any row is kept."""
    try:
        with pq.ParquetFile(file) as table:
            budget.add(f"{file}", 0, rows=table.metadata.num_rows)
            for at, batch in _batches(table):
                batch_bytes = sum(_bytes(column) for column in batch.columns)
                if batch_bytes > budget.limits.row_bytes:
                    for row in range(batch.num_rows):
                        size = sum(_bytes(column.slice(row, 1)) for column in batch.columns)
                        if size > budget.limits.row_bytes:
                            raise budget.row_too_large(f"{file}, row {at + row}")
                budget.add(f"{file}, row {at + batch.num_rows - 1}", batch_bytes, rows=0)
            for at, batch in _batches(table):
                for row, values in enumerate(_values(f"{file}, row {at}", batch)):
                    yield Row(f"{file}, row {at + row}", at + row, values)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ValueError(
            f"{file}: reading this parquet file failed ({str(error) or 'out of memory'}). Fix: copy or download the "
            "file again, or lower prompts.limits.row_mib."
        ) from error


def _batches(table: pq.ParquetFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch of rows, and the number of its first row."""
    at = 1
    for batch in table.iter_batches(batch_size=AT_ONCE, use_threads=False):
        yield at, batch
        at += batch.num_rows


def _values(place: str, batch: pa.RecordBatch) -> list[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a text that is not UTF-8, a date that Python cannot hold
        raise ValueError(f"{place} or soon after it: {error}. Fix: write the file anew without that value.") from error
    return rows


def _bytes(values: pa.Array) -> int:
    """Of the values as Python will hold them: each with its own text, if the file keeps equal texts once."""
    if pa.types.is_dictionary(values.type):
        return _bytes(values.dictionary_decode())
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return int(values.nbytes) if values.type.value_type == pa.null() else _bytes(values.flatten())
    if pa.types.is_struct(values.type):
        return sum(map(_bytes, values.flatten()))
    return int(values.nbytes)
