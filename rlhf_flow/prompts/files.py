"""The rows of data files: JSON lines, JSON, CSV, text or parquet, compressed or not; a file, a folder or a pattern."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.decoding import decompressed, is_parquet, lines, whole
from rlhf_flow.prompts.limits import Budget, Limits
from rlhf_flow.prompts.parse import Row, shown
from rlhf_flow.prompts.tables import table_rows
from rlhf_flow.system.errors import reason

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
SAVED = ("dataset_dict.json", "state.json")  # files that `save_to_disk` of `datasets` writes
DEEPEST = 64  # levels of nested objects and lists
CORRECT = "correct or remove the line"


def read(path: str, key: str, limits: Limits) -> list[Row | BadRowError]:
    """All rows, in the order of the files' names. Row numbers go on from file to file.

    `key`: the configuration key of `path`, for errors. Raises ValueError if no file is found, a file is damaged, or a
    limit is exceeded.
    """
    budget = Budget(limits)
    rows: list[Row | BadRowError] = []
    last = 0
    for file in found(path, key):
        before = last
        for row in _rows(file, budget):
            if isinstance(row, Row):
                row = replace(row, number=before + row.number) if before else row
                last = row.number
            rows.append(row)
    if not rows:
        raise ValueError(f"{key}={path}: expected rows, found an empty file. Fix: name a file with rows.")
    return rows


def read_held_out(path: str | None, limits: Limits) -> list[Row | BadRowError] | None:
    """The rows of `prompts.held_out_path`, if it is set."""
    return None if path is None else read(path, "prompts.held_out_path", limits)


def all_files(path: str, held_out_path: str | None) -> list[Path]:
    """The files of `prompts.path` and `prompts.held_out_path`."""
    held_out = [] if held_out_path is None else found(held_out_path, "prompts.held_out_path")
    return found(path, "prompts.path") + held_out


def found(path: str, key: str) -> list[Path]:
    """The files that `path` names: one, those of a folder, or those that match a pattern. Raises ValueError if none."""
    one = Path(path)
    if one.is_file():
        return [one]
    if one.is_dir():
        if any((one / name).is_file() for name in SAVED):
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
    """The rows of one file. CSV and text are recognised by the name, everything else by the content."""
    kind = _kind(file)
    if is_parquet(file):
        return table_rows(file, budget)
    if kind in (".csv", ".tsv"):
        return _csv(file, budget, delimiter="\t" if kind == ".tsv" else ",")
    if kind == ".txt":
        return _text(file, budget)
    if kind == ".json" and _is_list(file):
        return _json_list(file, budget)
    return _json_lines(file, budget)


def _kind(file: Path) -> str:
    """The suffix, without that of a compression."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _json_lines(file: Path, budget: Budget) -> Iterator[Row | BadRowError]:
    for number, line in lines(file, budget):
        if line.strip():
            place = f"{file}, line {number}"
            try:
                yield Row(place, number, _object(place, _parsed(place, line)))
            except BadRowError as bad:
                yield bad


def _is_list(file: Path) -> bool:
    with decompressed(file) as stream:
        start = stream.read(64)
    return start.translate(None, b"\0\xef\xbb\xbf\xfe\xff").lstrip().startswith(b"[")  # without zero bytes and BOMs


def _json_list(file: Path, budget: Budget) -> Iterator[Row | BadRowError]:
    values = _parsed(str(file), whole(file, budget))
    assert isinstance(values, list)
    for number, value in enumerate(values, start=1):
        place = f"{file}, row {number}"
        budget.add(place, 0)
        try:
            yield Row(place, number, _object(place, value))
        except BadRowError as bad:
            yield bad


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
            if len(cells) == len(header):
                yield Row(place, number, dict(zip(header, cells, strict=True)))
            else:
                problem = f"expected {len(header)} columns, found {len(cells)}"
                yield BadRowError(place, problem, "put quotes around a text with commas")
    except csv.Error as error:
        raise ValueError(f"{file}, row {number + 1}: {reason(error)}. Fix: correct the file.") from error


def _text(file: Path, budget: Budget) -> Iterator[Row | BadRowError]:
    """Each line that is not blank is a prompt."""
    for number, line in lines(file, budget):
        place = f"{file}, line {number}"
        try:
            if text := _decoded(place, line).strip():
                yield Row(place, number, {"prompt": text})
        except BadRowError as bad:
            yield bad


def _parsed(place: str, text: bytes | str) -> object:
    try:
        value: object = json.loads(_decoded(place, text))
    except json.JSONDecodeError as error:
        problem = f"expected one JSON object, found {shown(error.doc.strip())} ({error.msg} at column {error.colno})"
        raise BadRowError(place, problem, CORRECT) from error
    except RecursionError as error:
        raise _too_deep(place) from error
    except BadRowError:
        raise
    except ValueError as error:  # Python parses no whole number of more than 4,300 digits
        problem = f"a whole number is too long ({error})"
        raise BadRowError(place, problem, "write it as text, or remove the line") from error
    return value


def _decoded(place: str, line: bytes | str) -> str:
    if isinstance(line, str):
        return line
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        problem = f"expected UTF-8, found byte 0x{line[error.start]:02x} at column {error.start + 1}"
        raise BadRowError(place, problem, "save it as UTF-8") from error


def _object(place: str, value: object) -> dict[str, object]:
    """The value, if it is an object of at most DEEPEST levels."""
    if not isinstance(value, dict):
        raise BadRowError(place, f"expected a JSON object, found {shown(value)}", CORRECT)
    level: Sequence[object] = [value]
    for _ in range(DEEPEST):  # no recursion: a deep value would exceed Python's limit
        children = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [child for group in children for child in group if isinstance(child, dict | list)]
    if level:
        raise _too_deep(place)
    return value


def _too_deep(place: str) -> BadRowError:
    return BadRowError(place, f"expected at most {DEEPEST} levels of lists and objects, found more", CORRECT)
