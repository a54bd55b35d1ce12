"""SQLite files that are for their owner alone: what people said, and what judges said."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

WAIT_SECONDS = 60.0  # for the lock of another process, which holds it for one transaction
FILE_MODE, FOLDER_MODE = 0o600, 0o700


def connect(path: Path) -> sqlite3.Connection:
    """The file, opened for many threads; it and the folders that are made for it are the owner's alone.

    SQLite gives its own files beside it the same mode. Raises OSError or sqlite3.Error.
    """
    _make(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
    for one in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if one.exists() and one.stat().st_uid == os.getuid():  # an earlier release made it readable for others
            one.chmod(FILE_MODE)
    file = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = FULL")  # what is written outlives the machine's power
    return file


def _make(folder: Path) -> None:
    """Each missing folder of a path; Path.mkdir would give its mode to the last one only."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
