"""The bytes of a data file as text: decompressed, decoded, and never more of them than the limits allow."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rlhf_flow.prompts.limits import Budget

COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
PARQUET = b"PAR1"
ZIP = b"PK\x03\x04"
MARKS = {  # the longer ones first: UTF-32 begins with the mark of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def is_parquet(path: Path) -> bool:
    return _begins(path, PARQUET)


@contextmanager
def decompressed(path: Path) -> Iterator[BinaryIO]:
    """The content of a file that may be compressed. Raises ValueError if the file is damaged."""
    import pyarrow as pa

    if _begins(path, ZIP):
        raise ValueError(f"{path}: a zip archive may hold many files. Fix: unpack it, and name its folder.")
    try:
        with _opened(path) as stream:
            yield stream
    except (EOFError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: reading it failed ({error}). Fix: copy or download the file again.") from error


def lines(path: Path, budget: Budget) -> Iterator[tuple[int, bytes | str]]:
    """The lines and their numbers; only a line feed ends one. Bytes if the file is UTF-8, to be decoded line by line.

    Raises ValueError if a limit is exceeded or the file is damaged.
    """
    with decompressed(path) as stream:
        encoding = _encoding(stream)
        source: BinaryIO | io.TextIOWrapper = stream
        if encoding not in ("utf-8", "utf-8-sig"):  # half a surrogate pair passes: it is refused with its row
            source = io.TextIOWrapper(stream, encoding, errors="surrogatepass", newline="\n")
        elif encoding == "utf-8-sig":
            stream.read(len(codecs.BOM_UTF8))
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
    """The whole text. Raises ValueError if it exceeds the limit, or is in another encoding than it says."""
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


def _opened(path: Path) -> BinaryIO:
    import bz2
    import gzip
    import lzma

    import pyarrow as pa

    with path.open("rb") as file:
        start = file.read(8)
    kind = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
    if kind == "gzip":
        return io.BufferedReader(gzip.open(path, "rb"))  # type: ignore[arg-type]  # a GzipFile is a raw stream
    if kind == "bz2":
        return io.BufferedReader(bz2.open(path, "rb"))  # type: ignore[arg-type]
    if kind == "xz":
        return io.BufferedReader(lzma.open(path, "rb"))  # type: ignore[arg-type]
    if kind == "zstd":  # the standard library reads it from Python 3.14 on
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _encoding(stream: BinaryIO) -> str:
    assert isinstance(stream, io.BufferedReader)
    start = stream.peek(4)[:4]
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    if start[1:2] == b"\0" and start[:1] != b"\0":  # no mark, but an ASCII character of two bytes
        return "utf-16-le"
    return "utf-16-be" if start[:1] == b"\0" and start[1:2] != b"\0" else "utf-8"


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
