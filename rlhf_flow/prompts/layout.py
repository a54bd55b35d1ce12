"""Detects the schema of a data set, and brings its rows into the columns prompt, chosen and rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rlhf_flow.prompts.annotation_exports import NoComparisonError
from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.parse import Columns, Row, Rows, missing
from rlhf_flow.prompts.schemas import SCHEMAS, TURN, Schema, UnreadableError

AUTO, AS_NAMED = "auto", "columns"  # detect the schema; take the columns that prompts.columns names
CHOICES = (AUTO, AS_NAMED, *SCHEMAS)
SYSTEM = "system"  # the column that is used without being named
FIX = "correct the row, or name the layout of the data set with prompts.schema=…"


@dataclass(frozen=True)
class LaidOut:
    """Rows whose columns `columns` names."""

    rows: Rows
    columns: Columns
    summary: str  # how the columns were read; empty if they are as `columns` names them
    undecided: int  # rows that were left out, because their answers are equally good


def lay_out(rows: Rows, schema: str, columns: Columns, *, system: bool) -> LaidOut:
    """Bring the rows into the named columns. `system`: whether a column "system" may become the system message.

    Raises BadRowError if the rows have neither the columns nor a known schema.
    """
    good = [row for row in rows if isinstance(row, Row)]
    name = recognised(good[0], columns) if schema == AUTO and good else schema
    read_as, undecided = [], 0
    if name in SCHEMAS:
        rows, undecided = _converted(rows, name, columns)
        read_as.append(SCHEMAS[name].summary)
        good = [row for row in rows if isinstance(row, Row)]
    if schema == AUTO and system and columns.system is None and _has_system(good, columns):
        columns = replace(columns, system=SYSTEM)
        rows = [replace(row, values={SYSTEM: None, **row.values}) if isinstance(row, Row) else row for row in rows]
        read_as.append("system → system turn")
    for key, column in columns.named.items() if good else ():
        if all(column not in row.values for row in good):  # the name is wrong, not the rows
            raise missing(good[0], key, column)
    summary = ", ".join(read_as)
    return LaidOut(rows, columns, f"read as {name} ({summary})" if name in SCHEMAS else summary, undecided)


def recognised(row: Row, columns: Columns) -> str:
    """The schema of a data set with this row. Raises BadRowError if it has no known schema and not the columns."""
    for name, schema in SCHEMAS.items():
        if schema.asks and schema.fits(row.values):
            return name
    absent = [(key, column) for key, column in columns.named.items() if column not in row.values]
    if not absent:
        return AS_NAMED
    for name, schema in SCHEMAS.items():
        if schema.fits(row.values) and _matches_values(name, row.values):
            return name
    raise missing(row, *absent[0])


def _matches_values(name: str, values: Mapping[str, object]) -> bool:
    """Tells apart, by their values, schemas that have the same columns."""
    chosen = values.get("chosen")
    if name == "hh":
        return "prompt" not in values and isinstance(chosen, str) and TURN.match(chosen) is not None
    if name == "implicit":
        return "prompt" not in values and isinstance(chosen, list)
    return True


def _converted(rows: Rows, name: str, columns: Columns) -> tuple[Rows, int]:
    """The rows in the columns of the schema, and the number of undecided ones, which are left out."""
    candidates = set(columns.candidates.values())
    converted = [
        _read(row, SCHEMAS[name]) if isinstance(row, Row) else row
        for row in (_merged(rows) if name == "helpsteer" else rows)
    ]
    if "rejected" not in candidates:
        return converted, 0
    wanted = candidates & {"chosen", "rejected"}
    decided = [row for row in converted if not isinstance(row, Row) or wanted & row.values.keys()]
    return decided, len(converted) - len(decided)


def _read(row: Row, schema: Schema) -> Row | BadRowError:
    if not schema.fits(row.values):
        absent = next(column for column in schema.columns if column not in row.values)
        return row.error(f"expected a column {absent!r}, as the other rows have it", FIX)
    try:
        values = schema.read(row.values)
    except (UnreadableError, NoComparisonError) as error:
        return row.error(str(error), FIX)
    used = {*schema.columns, *schema.uses} - {"prompt", "chosen", "rejected"}  # these stay unless the schema sets them
    return replace(row, values={name: value for name, value in row.values.items() if name not in used} | dict(values))


def _merged(rows: Rows) -> Rows:
    """Adjacent rows with the same prompt as one row, whose `response` is the list of these rows."""
    merged: list[Row | BadRowError] = []
    for _, group in groupby(rows, key=lambda row: repr(row.values.get("prompt")) if isinstance(row, Row) else id(row)):
        first, *others = group
        if isinstance(first, Row):
            answers = [dict(row.values) for row in (first, *others) if isinstance(row, Row)]
            first = replace(first, values={**first.values, "response": answers})
        merged.append(first)
    return merged


def _has_system(rows: Sequence[Row], columns: Columns) -> bool:
    """Whether the rows have a column "system" of texts that is not named as another column."""
    values = [row.values.get(SYSTEM) for row in rows]
    return (
        SYSTEM not in columns.named.values()
        and any(value is not None for value in values)
        and all(value is None or isinstance(value, str) for value in values)
    )
