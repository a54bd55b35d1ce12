"""SQLite files that only their owner can read: judgements of people and of LLM judges."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_SECONDS = 60.0  # for the lock of another process, which holds it for one transaction
FILE_MODE, FOLDER_MODE = 0o600, 0o700


def connect(path: Path) -> sqlite3.Connection:
    """Open a file for use by many threads. The file, and folders that are created for it, are private to the owner.

    Raises OSError or sqlite3.Error.
    """
    _make(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
    for one in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if one.exists() and one.stat().st_uid == os.getuid():  # an earlier version created it readable for others
            one.chmod(FILE_MODE)
    file = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = FULL")  # commits survive a power failure
    return file


@contextmanager
def transaction(file: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A write transaction: committed at the end of the block, rolled back if the block raises."""
    file.execute("BEGIN IMMEDIATE")
    try:
        yield file
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def _make(folder: Path) -> None:
    """Create each missing folder of a path with FOLDER_MODE; Path.mkdir sets the mode of the last one only."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
