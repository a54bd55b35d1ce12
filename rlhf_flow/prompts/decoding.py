"""Data files as text: decompression by content, detection of the encoding, and limits on what is read."""

from __future__ import annotations

import bz2
import codecs
import functools
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from rlhf_flow.prompts.limits import Budget

OPENERS: dict[bytes, Callable[[str], Any]] = {  # by the first bytes of a file
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": functools.partial(pa.input_stream, compression="zstd"),
}
PARQUET = b"PAR1"
ZIP = b"PK\x03\x04"
BOMS = {  # the longer ones first: the BOM of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def is_parquet(path: Path) -> bool:
    return _start(path).startswith(PARQUET)


@contextmanager
def decompressed(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a file that may be compressed. Raises ValueError if the file is damaged."""
    start = _start(path)
    if start.startswith(ZIP):
        raise ValueError(f"{path}: a zip archive may hold many files. Fix: unpack it, and name its folder.")
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    try:
        with path.open("rb") if opener is None else io.BufferedReader(opener(str(path))) as stream:
            yield stream
    except (EOFError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: reading it failed ({error}). Fix: copy or download the file again.") from error


def lines(path: Path, budget: Budget) -> Iterator[tuple[int, bytes | str]]:
    """Line numbers and lines; only a line feed ends a line. UTF-8 stays bytes: each line is decoded by itself.

    Raises ValueError if a limit is exceeded or the file is damaged.
    """
    with decompressed(path) as stream:
        encoding = _encoding(stream)
        source: BinaryIO | io.TextIOWrapper = stream
        if encoding == "utf-8-sig":
            stream.read(len(codecs.BOM_UTF8))
        elif encoding != "utf-8":  # a lone surrogate passes here and is refused with its row
            source = io.TextIOWrapper(stream, encoding, errors="surrogatepass", newline="\n")
        number = 0
        try:
            while line := source.readline(budget.limits.row_bytes + 1):
                number += 1
                budget.add(f"{path}, line {number}", len(line))
                yield number, line
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number + 1}: expected {encoding.upper()}, found {error.reason}. Fix: save it as UTF-8."
            ) from error


def whole(path: Path, budget: Budget) -> str:
    """The whole text. Raises ValueError if it exceeds the limit or is not in the detected encoding."""
    with decompressed(path) as stream:
        encoding = _encoding(stream)
        data = stream.read(budget.limits.total_bytes + 1)
    budget.add(str(path), len(data), rows=0)
    try:
        return data.decode(encoding, errors="strict" if encoding.startswith("utf-8") else "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {data[: error.start].count(10) + 1}: expected {encoding.upper()}, found byte "
            f"0x{data[error.start]:02x}. Fix: save it as UTF-8."
        ) from error


def _encoding(stream: io.BufferedReader) -> str:
    start = stream.peek(4)[:4]
    for bom, encoding in BOMS.items():
        if start.startswith(bom):
            return encoding
    if start[1:2] == b"\0" and start[:1] != b"\0":  # no BOM, but an ASCII character of two bytes
        return "utf-16-le"
    return "utf-16-be" if start[:1] == b"\0" and start[1:2] != b"\0" else "utf-8"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
