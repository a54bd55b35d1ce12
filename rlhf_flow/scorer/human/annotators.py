"""Annotators' names: a name belongs to the browser session that first labels under it."""

from __future__ import annotations

import hashlib
import secrets
import time

from rlhf_flow.scorer.human.annotations import Annotations


class NotTheirs(Exception):  # noqa: N818  # a refusal
    """A name that belongs to another session."""


class Annotators:
    """The names in a file of labels. Sessions are stored as hashes."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations

    def check(self, annotator: str, session: str) -> None:
        """Raise NotTheirs if the name is another session's. A name without labels is free."""
        given = hashlib.sha256(session.encode()).hexdigest()
        with self._annotations.transaction() as file:
            row = file.execute("SELECT key FROM people WHERE annotator = ?", [annotator]).fetchone()
            if row is not None and secrets.compare_digest(row[0], given):
                return
            labelled = file.execute("SELECT 1 FROM labels WHERE annotator = ? LIMIT 1", [annotator]).fetchone()
            if row is None or labelled is None:
                file.execute("INSERT OR REPLACE INTO people VALUES (?, ?, ?)", [annotator, given, time.time()])
                return
        raise NotTheirs(
            f"{annotator} labels in another browser already. Take another name; if it is you, ask the "
            "operator to restart this server with --release and your name."
        )

    def release(self, annotator: str) -> None:
        """Free the name for another session. Raises ValueError if no session has it."""
        with self._annotations.transaction() as file:
            if not file.execute("DELETE FROM people WHERE annotator = ?", [annotator]).rowcount:
                raise ValueError(
                    f"--release {annotator}: no annotator has that name. Fix: write it as the page shows it."
                )
