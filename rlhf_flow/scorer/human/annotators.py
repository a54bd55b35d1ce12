"""Who may label under which name: a name belongs to the session that first labels under it."""

from __future__ import annotations

import hashlib
import secrets
import time

from rlhf_flow.scorer.human.annotations import Annotations


class NotTheirs(Exception):  # noqa: N818  # as a refusal, not as a failure
    """A name that belongs to another session."""


class Annotators:
    """The names in a file of labels. Sessions are kept as hashes."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations

    def check(self, annotator: str, session: str) -> None:
        """Raise NotTheirs if the name is another session's. A name under which nothing is said yet is free."""
        given = hashlib.sha256(session.encode()).hexdigest()
        with self._annotations.transaction() as file:
            row = file.execute("SELECT key FROM people WHERE annotator = ?", [annotator]).fetchone()
            if row is not None and secrets.compare_digest(row[0], given):
                return
            said = file.execute("SELECT 1 FROM labels WHERE annotator = ? LIMIT 1", [annotator]).fetchone()
            if row is None or said is None:
                file.execute("INSERT OR REPLACE INTO people VALUES (?, ?, ?)", [annotator, given, time.time()])
                return
        raise NotTheirs(
            f"{annotator} labels in another browser already. Take another name. If it is you, ask the person who runs "
            "this server to start it with --release and your name."
        )

    def release(self, annotator: str) -> None:
        """Let another session take the name. Raises ValueError if no session has it."""
        with self._annotations.transaction() as file:
            if not file.execute("DELETE FROM people WHERE annotator = ?", [annotator]).rowcount:
                raise ValueError(
                    f"--release {annotator}: no annotator has that name. Fix: write it as the page shows it."
                )
