"""The rows of data files: JSON lines, JSON, CSV, text or parquet, compressed or not; a file, a folder, a pattern."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.decoding import COMPRESSED, decompressed, is_parquet, lines, whole
from rlhf_flow.prompts.limits import Budget, Limits
from rlhf_flow.prompts.parse import Row, shown
from rlhf_flow.prompts.tables import table_rows

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
SUFFIXES = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "xz": ".xz"}
DEEPEST = 64  # objects and lists inside of each other
CORRECT = "correct or remove the line"

assert set(SUFFIXES) == set(COMPRESSED.values())


def read(path: str, key: str, limits: Limits) -> list[Row | BadRowError]:
    """All rows, in the order of the files' names. Row numbers go on from file to file.

    Raises ValueError if there is no such file, a file is damaged, or a limit is exceeded.
    """
    budget = Budget(limits)
    rows: list[Row | BadRowError] = []
    for file in found(path, key):
        last = max((row.number for row in rows if isinstance(row, Row)), default=0)
        for row in _rows(file, budget):
            rows.append(replace(row, number=last + row.number) if isinstance(row, Row) and last else row)
    if not rows:
        raise ValueError(f"{key}={path}: expected rows, found an empty file. Fix: name a file with rows.")
    return rows


def found(path: str, key: str) -> list[Path]:
    """The files that `path` names: one, those of a folder, or those that match a pattern. Raises ValueError if none."""
    one = Path(path)
    if one.is_file():
        return [one]
    if one.is_dir():
        if any((one / name).is_file() for name in ("dataset_dict.json", "state.json")):
            raise ValueError(f"{key}={path}: `save_to_disk` wrote this folder. Fix: prompts=huggingface {key}={path}.")
        files = sorted(file for file in one.iterdir() if file.is_file() and _kind(file) in KINDS)
        if not files:
            raise ValueError(
                f"{key}={path}: the folder has no data file ({', '.join(KINDS)}). Fix: name a folder or file that has."
            )
        return files
    files = sorted(Path(name) for name in glob.glob(path) if Path(name).is_file())  # noqa: PTH207  # may be absolute
    if not files:
        raise ValueError(
            f"{key}={path}: {str(one.absolute())!r} is not a file, a folder, or a pattern of files. Fix: correct {key}."
        )
    return files


def _rows(file: Path, budget: Budget) -> Iterator[Row | BadRowError]:
    """The rows of one file. Its name says whether it is CSV or text; its content says everything else."""
    kind = _kind(file)
    if is_parquet(file):
        return table_rows(file, budget)
    if kind in (".csv", ".tsv"):
        return _csv(file, budget, delimiter="\t" if kind == ".tsv" else ",")
    if kind == ".txt":
        return _text(file, budget)
    if kind == ".json" and (listed := _json(file, budget)) is not None:
        return iter(listed)
    return _json_lines(file, budget)


def _kind(file: Path) -> str:
    """The suffix, without that of a compression."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in SUFFIXES.values():
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _json_lines(file: Path, budget: Budget) -> Iterator[Row | BadRowError]:
    for number, line in lines(file, budget):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            yield Row(place, number, _object(place, _parsed(place, line)))
        except BadRowError as bad:
            yield bad


def _json(file: Path, budget: Budget) -> list[Row | BadRowError] | None:
    """The rows of one JSON list; None if the file does not begin as a list."""
    with decompressed(file) as stream:
        start = stream.read(64)
    if not start.translate(None, b"\0\xef\xbb\xbf\xfe\xff").lstrip().startswith(b"["):
        return None
    values = _parsed(str(file), whole(file, budget))
    if not isinstance(values, list):
        raise BadRowError(str(file), f"expected a list of objects, found {shown(values)}", "write a list of objects")
    rows: list[Row | BadRowError] = []
    for number, value in enumerate(values, start=1):
        place = f"{file}, row {number}"
        budget.add(place, 0)
        try:
            rows.append(Row(place, number, _object(place, value)))
        except BadRowError as bad:
            rows.append(bad)
    return rows


def _csv(file: Path, budget: Budget, *, delimiter: str) -> Iterator[Row | BadRowError]:
    csv.field_size_limit(budget.limits.row_bytes)
    reader = csv.reader(whole(file, budget).splitlines(keepends=True), delimiter=delimiter, strict=True)
    number = 0
    try:
        header = next(reader, [])
        for number, cells in enumerate(reader, start=1):
            place = f"{file}, row {number}"
            budget.add(place, 0)
            if not cells:
                continue
            if len(cells) != len(header):
                found_cells = f"expected {len(header)} columns, found {len(cells)}"
                yield BadRowError(place, found_cells, "put quotes around a text with commas")
            else:
                yield Row(place, number, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{file}, row {number + 1}: {error}. Fix: correct the file.") from error


def _text(file: Path, budget: Budget) -> Iterator[Row | BadRowError]:
    """Each line that is not blank is a prompt."""
    for number, line in lines(file, budget):
        place = f"{file}, line {number}"
        try:
            text = (line if isinstance(line, str) else _decoded(place, line)).strip()
        except BadRowError as bad:
            yield bad
            continue
        if text:
            yield Row(place, number, {"prompt": text})


def _parsed(place: str, text: bytes | str) -> object:
    try:
        value: object = json.loads(text if isinstance(text, str) else _decoded(place, text))
    except json.JSONDecodeError as error:
        found_text = shown(error.doc.strip())
        raise BadRowError(
            place, f"expected one JSON object, found {found_text} ({error.msg} at column {error.colno})", CORRECT
        ) from error
    except RecursionError as error:
        raise BadRowError(
            place, f"expected at most {DEEPEST} levels of lists and objects, found more", CORRECT
        ) from error
    except ValueError as error:  # Python reads no whole numbers of more than 4,300 digits
        raise BadRowError(
            place, f"a whole number is too long ({error})", "write it as text, or remove the line"
        ) from error
    return value


def _decoded(place: str, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(
            place,
            f"expected UTF-8, found byte 0x{line[error.start]:02x} at column {error.start + 1}",
            "save it as UTF-8",
        ) from error


def _object(place: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BadRowError(place, f"expected a JSON object, found {shown(value)}", CORRECT)
    if _too_deep([value]):
        raise BadRowError(place, f"expected at most {DEEPEST} levels of lists and objects, found more", CORRECT)
    return value


def _too_deep(level: Sequence[object]) -> bool:
    """Whether values nest deeper than DEEPEST. Without recursion, which deep values would exhaust."""
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
