"""What judges have said, by a hash of all that it depends on: one SQLite file, shared by runs and by processes."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf_flow.system.private_sqlite import connect

AT_ONCE = 500  # keys in one SELECT
TABLE = "CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"

ABOUT = """CREATE TABLE IF NOT EXISTS about (
    key TEXT PRIMARY KEY, source TEXT NOT NULL, kept INTEGER NOT NULL
) WITHOUT ROWID"""  # beside the replies, whose table is that of version 0.1
UNKNOWN = "an earlier version"


def path_of(cache: str | None) -> Path:
    """The file that `cache` names, by default ${RLHF_FLOW_HOME:-~/.cache/rlhf-flow}/judgements.sqlite."""
    home = Path(os.environ.get("RLHF_FLOW_HOME") or Path.home() / ".cache" / "rlhf-flow")
    return home / "judgements.sqlite" if cache is None else Path(cache).expanduser()


class JudgementCache:
    """The file, opened. Many threads may use one of these, many processes one file."""

    def __init__(self, path: Path, *tables: str, key: str) -> None:
        """`tables`: SQL that makes further ones. `key`: of the configuration, which named the file.

        Raises ValueError where it cannot be opened.
        """
        self._lock = threading.Lock()
        try:
            self._file = connect(path)
            with self.transaction() as file:
                for table in (TABLE, ABOUT, *tables):
                    file.execute(table)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"{key} must be an SQLite file that can be written, or a new one; {path} is not: {error}. "
                "Name another file, or a folder on this machine by RLHF_FLOW_HOME."
            ) from error

    def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        """The replies that are known, by key."""
        found: dict[str, str] = {}
        with self.reading() as file:
            for at in range(0, len(keys), AT_ONCE):
                some = keys[at : at + AT_ONCE]
                marks = ", ".join("?" * len(some))
                found |= dict(file.execute(f"SELECT key, reply FROM judgements WHERE key IN ({marks})", some))
        return found

    def keep(self, replies: Mapping[str, str], *, source: str) -> None:
        """Keep all of them or none, on disk once this returns; what is known already stays as it is.

        `source`: who said it, for `rlhf-flow judgements`.
        """
        with self.transaction() as file:
            file.executemany("INSERT OR IGNORE INTO judgements VALUES (?, ?)", replies.items())
            tell(file, replies, source)

    def adopt(self, keys: Mapping[str, str]) -> int:
        """Give replies that are known by old keys their new ones (new -> old), if those are free; return how many."""
        known = self.look_up(list(keys.values()))
        renamed = [(new, old) for new, old in keys.items() if old in known]
        if not renamed:
            return 0
        with self.transaction() as file:
            file.executemany("UPDATE OR IGNORE about SET key = ? WHERE key = ?", renamed)
            return file.executemany("UPDATE OR IGNORE judgements SET key = ? WHERE key = ?", renamed).rowcount

    def close(self) -> None:
        """It may be closed already."""
        with self._lock:
            self._file.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock:
            yield self._file

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, of all processes: what is read in it stays true until it is written."""
        with self.reading() as file:
            file.execute("BEGIN IMMEDIATE")
            try:
                yield file
                file.execute("COMMIT")
            except BaseException:
                if file.in_transaction:
                    file.execute("ROLLBACK")
                raise


def tell(file: sqlite3.Connection, keys: Iterable[str], source: str) -> None:
    """Write down, in a transaction, who said these and when."""
    now = int(time.time())
    file.executemany("INSERT OR IGNORE INTO about VALUES (?, ?, ?)", [(key, source, now) for key in keys])
