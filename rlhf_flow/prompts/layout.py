"""Which schema the rows of a data set have, and the same rows in the columns prompt, chosen and rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rlhf_flow.prompts.annotation_exports import NoComparisonError
from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.parse import Columns, Row, missing
from rlhf_flow.prompts.schemas import SCHEMAS, TURN, Schema, UnreadableError

AUTO, AS_NAMED = "auto", "columns"  # find out; the columns that prompts.columns names, and nothing else
CHOICES = (AUTO, AS_NAMED, *SCHEMAS)
SYSTEM = "system"  # the column that is used without being named
FIX = "correct the row, or name the data set's layout with prompts.schema=…"


@dataclass(frozen=True)
class LaidOut:
    """Rows whose columns `columns` names."""

    rows: Sequence[Row | BadRowError]
    columns: Columns
    says: str  # what was taken for what; empty if the columns are as they are named
    undecided: int  # rows that were left out, because their answers are equally good


def lay_out(rows: Sequence[Row | BadRowError], schema: str, columns: Columns, *, system: bool) -> LaidOut:
    """Bring the rows into the columns that are named; `system`: whether a column "system" may be used for that.

    Raises BadRowError if the rows have neither the columns nor a schema that is known.
    """
    good = [row for row in rows if isinstance(row, Row)]
    name = recognised(good[0], columns) if schema == AUTO and good else schema
    says, undecided = [], 0
    if name in SCHEMAS:
        rows, undecided = _converted(rows, name, columns)
        says.append(f"{SCHEMAS[name].says}")
        good = [row for row in rows if isinstance(row, Row)]
    if schema == AUTO and system and columns.system is None and _has_system(good, columns):
        columns = replace(columns, system=SYSTEM)
        rows = [replace(row, values={SYSTEM: None, **row.values}) if isinstance(row, Row) else row for row in rows]
        says.append("system → system turn")
    for key, column in columns.named.items() if good else ():
        if all(column not in row.values for row in good):  # a wrong name, and no bad rows
            raise missing(good[0], key, column)
    about = f"read as {name} ({', '.join(says)})" if name in SCHEMAS else ", ".join(says)
    return LaidOut(rows, columns, about, undecided)


def recognised(row: Row, columns: Columns) -> str:
    """The schema of a data set that has this row. Raises BadRowError if it has none, and not the columns either."""
    there = row.values.keys()
    for name, schema in SCHEMAS.items():
        if schema.asks and schema.fits(row.values):
            return name
    absent = [(key, column) for key, column in columns.named.items() if column not in there]
    if not absent:
        return AS_NAMED
    for name, schema in SCHEMAS.items():
        if schema.fits(row.values) and _believable(name, row.values):
            return name
    raise missing(row, *absent[0])


def _believable(name: str, values: Mapping[str, object]) -> bool:
    """Whether the values too are as the schema says, of two with the same columns."""
    chosen = values.get("chosen")
    if name == "hh":
        return "prompt" not in values and isinstance(chosen, str) and TURN.match(chosen) is not None
    if name == "implicit":
        return "prompt" not in values and isinstance(chosen, list)
    return True


def _converted(rows: Sequence[Row | BadRowError], name: str, columns: Columns) -> tuple[list[Row | BadRowError], int]:
    schema, converted, undecided = SCHEMAS[name], list[Row | BadRowError](), 0
    wanted = {column for column in columns.candidates.values() if column in ("chosen", "rejected")}
    for row in _together(rows) if name == "helpsteer" else rows:
        if isinstance(row, Row):
            row = _read(row, schema)
            if isinstance(row, Row) and "rejected" in wanted and not wanted & row.values.keys():
                undecided += 1
                continue
        converted.append(row)
    return converted, undecided


def _read(row: Row, schema: Schema) -> Row | BadRowError:
    if not schema.fits(row.values):
        absent = next(column for column in schema.columns if column not in row.values)
        return BadRowError(row.place, f"expected a column {absent!r}, as the other rows have it", FIX)
    try:
        values = schema.read(row.values)
    except (UnreadableError, NoComparisonError) as error:
        return BadRowError(row.place, str(error), FIX)
    kept = ("prompt", "chosen", "rejected")  # as they are, if the schema says nothing of them
    used = {*schema.columns, *schema.uses} - set(kept)
    return replace(row, values={name: value for name, value in row.values.items() if name not in used} | dict(values))


def _together(rows: Sequence[Row | BadRowError]) -> list[Row | BadRowError]:
    """Neighbouring rows with the same prompt as one, whose `response` is the list of theirs."""
    made: list[Row | BadRowError] = []
    for _, group in groupby(rows, key=lambda row: repr(row.values.get("prompt")) if isinstance(row, Row) else id(row)):
        same = [*group]
        first = same[0]
        if isinstance(first, Row):
            answers = [dict(row.values) for row in same if isinstance(row, Row)]
            first = replace(first, values={**first.values, "response": answers})
        made.append(first)
    return made


def _has_system(rows: Sequence[Row], columns: Columns) -> bool:
    """Whether there is a column of that name, of texts, that is not named as something else."""
    values = [row.values.get(SYSTEM) for row in rows]
    return (
        SYSTEM not in columns.named.values()
        and any(value is not None for value in values)
        and all(value is None or isinstance(value, str) for value in values)
    )
