"""A private SQLite file that many threads and processes share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_flow.system.private_sqlite import connect, transaction

AT_ONCE = 500  # keys in one SELECT


class SqliteFile:
    """Raises OSError or sqlite3.Error if the file can neither be opened nor created."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = connect(path)

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._file.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock:
            yield self._file

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """An exclusive write transaction: no other process writes between a read in it and its commit."""
        with self.reading() as file, transaction(file):
            yield file
