"""Judgements by a hash of all that they depend on, in one SQLite file that runs and processes share."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rlhf_flow.scorer.sqlite_file import AT_ONCE, SqliteFile

TABLE = "CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"
ABOUT = """CREATE TABLE IF NOT EXISTS about (
    key TEXT PRIMARY KEY, source TEXT NOT NULL, kept INTEGER NOT NULL
) WITHOUT ROWID"""  # a table of its own: `judgements` is that of version 0.1
UNKNOWN = "an earlier version"


def path_of(cache: str | None) -> Path:
    """The file that `cache` names, by default ${RLHF_FLOW_HOME:-~/.cache/rlhf-flow}/judgements.sqlite."""
    home = Path(os.environ.get("RLHF_FLOW_HOME") or Path.home() / ".cache" / "rlhf-flow")
    return home / "judgements.sqlite" if cache is None else Path(cache).expanduser()


class JudgementCache(SqliteFile):
    """The opened file."""

    def __init__(self, path: Path, *tables: str, key: str) -> None:
        """`tables`: SQL that creates further tables. `key`: the configuration key that names the file.

        Raises ValueError if the file cannot be opened.
        """
        try:
            super().__init__(path)
            with self.transaction() as file:
                for table in (TABLE, ABOUT, *tables):
                    file.execute(table)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"{key} must be an SQLite file that can be written, or a new one; {path} is not: {error}. "
                "Fix: name another file, or set RLHF_FLOW_HOME to a folder on this machine."
            ) from error

    def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        """The known replies, by key."""
        found: dict[str, str] = {}
        with self.reading() as file:
            for at in range(0, len(keys), AT_ONCE):
                some = keys[at : at + AT_ONCE]
                marks = ", ".join("?" * len(some))
                found |= dict(file.execute(f"SELECT key, reply FROM judgements WHERE key IN ({marks})", some))
        return found

    def keep(self, replies: Mapping[str, str], *, source: str) -> None:
        """Store all replies or none, on disk once this returns; a key that is known keeps its reply.

        `source`: the scorer, for `rlhf-flow judgements`.
        """
        with self.transaction() as file:
            file.executemany("INSERT OR IGNORE INTO judgements VALUES (?, ?)", replies.items())
            note_source(file, replies, source)

    def adopt(self, keys: Mapping[str, str]) -> int:
        """Rename old keys (new -> old) if the new ones are free; return how many replies were renamed."""
        known = self.look_up(list(keys.values()))
        renamed = [(new, old) for new, old in keys.items() if old in known]
        if not renamed:
            return 0
        with self.transaction() as file:
            file.executemany("UPDATE OR IGNORE about SET key = ? WHERE key = ?", renamed)
            return file.executemany("UPDATE OR IGNORE judgements SET key = ? WHERE key = ?", renamed).rowcount


def note_source(file: sqlite3.Connection, keys: Iterable[str], source: str) -> None:
    """Record, in a transaction, which scorer gave these replies, and when."""
    now = int(time.time())
    file.executemany("INSERT OR IGNORE INTO about VALUES (?, ?, ?)", [(key, source, now) for key in keys])
