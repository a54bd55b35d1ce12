"""Questions and labels in one SQLite file, which the run and the labelling servers share.

A label is on disk before it is acknowledged. An annotator has at most one label per question, however often it is sent;
an undone or replaced label stays in the file and no longer counts.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.scorer.human.questions import SKIPPERS, VERDICTS, Label, Progress, Question, Standing
from rlhf_flow.scorer.sqlite_file import AT_ONCE, SqliteFile

FILE = "labels.sqlite"
LONGEST_COMMENT = 4000  # characters
AWAY_SECONDS = 3600.0  # an annotator without a label or a lease for this long is inactive
LEASE_SECONDS = 60.0  # a question is reserved for the annotator that sees it

TABLES = """
CREATE TABLE IF NOT EXISTS questions (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, content TEXT NOT NULL, needed INTEGER NOT NULL,
    asked REAL NOT NULL, due REAL
);
CREATE TABLE IF NOT EXISTS labels (
    id TEXT PRIMARY KEY, question INTEGER NOT NULL REFERENCES questions, annotator TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('first', 'second', 'tie', 'skip')), at REAL NOT NULL, undone REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_each ON labels (question, annotator) WHERE undone IS NULL;
CREATE INDEX IF NOT EXISTS of_whom ON labels (annotator) WHERE undone IS NULL;
CREATE TABLE IF NOT EXISTS leases (annotator TEXT PRIMARY KEY, question INTEGER NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS people (annotator TEXT PRIMARY KEY, key TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, text TEXT NOT NULL);
"""
# `open`: not `Standing.settled`. `shown`: handed out; a question that one annotator skips is still shown to others.
STANDINGS = f"""
WITH labelling AS (
    SELECT annotator FROM labels WHERE at > :now - {AWAY_SECONDS}
    UNION SELECT annotator FROM leases WHERE until > :now - {AWAY_SECONDS}
), counted AS (
    SELECT questions.*, coalesce(said, 0) AS said, coalesce(skipped, 0) AS skipped, EXISTS (
        SELECT 1 FROM labelling WHERE NOT EXISTS (
            SELECT 1 FROM labels
            WHERE question = questions.id AND labels.annotator = labelling.annotator AND undone IS NULL
        )
    ) AS awaited
    FROM questions LEFT JOIN (
        SELECT question, sum(verdict != 'skip') AS said, sum(verdict = 'skip') AS skipped
        FROM labels WHERE undone IS NULL GROUP BY question
    ) ON question = id
), standings AS (
    SELECT *, said < needed AND skipped < max(needed, {SKIPPERS}) AS shown,
        said < needed AND NOT (skipped >= needed AND (skipped >= {SKIPPERS} OR NOT awaited)) AS open
    FROM counted
)
"""
# Columns that files of earlier releases lack. Their `verdict` column allows no other words: `bad` is a flagged tie.
COLUMNS = {"comment": "TEXT NOT NULL DEFAULT ''", "bad": "INTEGER NOT NULL DEFAULT 0"}
VERDICT = "CASE WHEN bad THEN 'bad' ELSE verdict END"
NEXT = f"""
{STANDINGS} SELECT id FROM standings WHERE shown
    AND NOT EXISTS (SELECT 1 FROM labels WHERE question = standings.id AND annotator = :me AND undone IS NULL)
    AND said < needed - (
        SELECT count(*) FROM leases WHERE question = standings.id AND annotator != :me AND until > :now
    )
ORDER BY id = (SELECT question FROM leases WHERE annotator = :me) DESC, coalesce(due <= :now, 0), id LIMIT 1
"""


class Annotations(SqliteFile):
    """The opened file."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError if the file can neither be opened nor created."""
        self.path = path = folder.absolute() / FILE
        try:
            super().__init__(path)
            with self.transaction() as file:
                for statement in TABLES.split(";"):
                    file.execute(statement)
                known = {row[1] for row in file.execute("PRAGMA table_info(labels)")}
                for name in COLUMNS.keys() - known:
                    file.execute(f"ALTER TABLE labels ADD COLUMN {name} {COLUMNS[name]}")
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"scorer.folder must be a folder for labels that can be written; {path} is no such file: {error}. "
                "Fix: name a folder on a local drive."
            ) from error

    # -- the run -------------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question], *, needed: int, deadline: float | None) -> None:
        """Add questions. A known question keeps its labels and the time when it was first asked.

        needed: verdicts of different annotators. deadline: seconds since a question was first asked.
        """
        rows = [
            {"key": one.key, "content": one.content, "needed": needed, "now": time.time(), "deadline": deadline}
            for one in questions
        ]
        with self.transaction() as file:
            file.executemany(
                "INSERT INTO questions (key, content, needed, asked, due) "
                "VALUES (:key, :content, :needed, :now, :now + :deadline) "
                "ON CONFLICT (key) DO UPDATE SET needed = :needed, due = asked + :deadline",
                rows,
            )

    def standings(self, questions: Sequence[Question]) -> list[Standing]:
        """Of known questions, in their order."""
        found: dict[str, tuple[int, float | None, dict[str, str], bool]] = {}
        with self.reading() as file:
            for at in range(0, len(questions), AT_ONCE):
                keys = {f"k{n}": question.key for n, question in enumerate(questions[at : at + AT_ONCE])}
                rows = file.execute(
                    f"{STANDINGS} SELECT key, needed, due, awaited, annotator, {VERDICT} FROM standings "
                    "LEFT JOIN labels ON question = standings.id AND undone IS NULL "
                    f"WHERE key IN ({', '.join(f':{name}' for name in keys)}) ORDER BY annotator",
                    {"now": time.time(), **keys},
                )
                for key, needed, due, awaited, annotator, verdict in rows:
                    *_, labels, _ = found.setdefault(key, (needed, due, {}, bool(awaited)))
                    if annotator is not None:
                        labels[annotator] = verdict
        return [Standing(*found[question.key]) for question in questions]

    # -- the annotators ------------------------------------------------------------------------------------------------

    def hand(self, annotator: str) -> Question | None:
        """A question for this annotator, leased for a while; None if there is none.

        The question leased last, if it is still open to them; else questions before their deadline first.
        """
        now = time.time()
        with self.transaction() as file:
            found = file.execute(NEXT, {"me": annotator, "now": now}).fetchone()
            if found is None:
                file.execute("DELETE FROM leases WHERE annotator = ?", [annotator])
                return None
            self._lease(annotator, found[0], now)
            (content,) = file.execute("SELECT content FROM questions WHERE id = ?", found).fetchone()
        return Question.read(content)

    def label(
        self, id: str, key: str, annotator: str, verdict: str, *, comment: str = "", instead: str | None = None
    ) -> None:
        """Store an annotator's label of a question; on disk once this returns.

        The client chooses `id`: a label that is sent twice is stored once, even if it was undone meanwhile.
        An annotator's second label of a question is ignored, unless it replaces the label with the id `instead`.
        Raises ValueError for an invalid verdict or comment, or an unknown question.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"the verdict must be one of {', '.join(VERDICTS)}, got {verdict!r}")
        if len(comment) > LONGEST_COMMENT:
            raise ValueError(f"the comment must have at most {LONGEST_COMMENT} characters, got {len(comment)}")
        with self.transaction() as file:
            question = file.execute("SELECT id FROM questions WHERE key = ?", [key]).fetchone()
            if question is None:
                raise ValueError(f"there is no question {key!r}")
            if not file.execute("SELECT 1 FROM labels WHERE id = ?", [id]).fetchone():
                file.execute(
                    "UPDATE labels SET undone = ? WHERE id = ? AND annotator = ? AND question = ? AND undone IS NULL",
                    [time.time(), instead, annotator, *question],
                )
            word, bad = ("tie", True) if verdict == "bad" else (verdict, False)
            file.execute(
                "INSERT OR IGNORE INTO labels (id, question, annotator, verdict, at, comment, bad) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [id, *question, annotator, word, time.time(), comment, bad],
            )
            file.execute("DELETE FROM leases WHERE annotator = ? AND question = ?", [annotator, *question])

    def last(self, annotator: str) -> str | None:
        """The id of the annotator's last label that counts."""
        with self.reading() as file:
            found = file.execute(
                "SELECT id FROM labels WHERE annotator = ? AND undone IS NULL ORDER BY rowid DESC LIMIT 1",
                [annotator],
            ).fetchone()
        return None if found is None else str(found[0])

    def undo(self, id: str, annotator: str) -> None:
        """Undo a label of this annotator, and lease its question to them again. Idempotent.

        A run that has read the label keeps it.
        """
        now = time.time()
        with self.transaction() as file:
            taken = file.execute(
                "UPDATE labels SET undone = ? WHERE id = ? AND annotator = ? AND undone IS NULL RETURNING question",
                [now, id, annotator],
            ).fetchall()
            for (question,) in taken:
                self._lease(annotator, question, now)

    def reconsider(self, annotator: str) -> None:
        """Undo this annotator's skips of questions without enough verdicts, so that they are handed out again."""
        with self.transaction() as file:
            file.execute(
                f"{STANDINGS} UPDATE labels SET undone = :now WHERE annotator = :me AND verdict = 'skip' "
                "AND undone IS NULL AND question IN (SELECT id FROM standings WHERE said < needed)",
                {"now": time.time(), "me": annotator},
            )

    def progress(self, annotator: str) -> Progress:
        with self.reading() as file:
            found = file.execute(
                f"{STANDINGS} SELECT (SELECT count(*) FROM labels WHERE annotator = :me AND undone IS NULL), "
                "count(*), coalesce(sum(open), 0), (SELECT count(*) FROM labels JOIN standings AS one "
                "ON question = one.id WHERE annotator = :me AND undone IS NULL AND verdict = 'skip' "
                "AND one.said < one.needed) FROM standings",
                {"me": annotator, "now": time.time()},
            ).fetchone()
        return Progress(*found)

    def labels(self, annotator: str | None = None, *, most: int = -1) -> list[Label]:
        """The labels that count, the latest first; of one annotator, or of all."""
        with self.reading() as file:
            rows = file.execute(
                f"SELECT labels.id, content, annotator, {VERDICT}, comment, at FROM labels "
                "JOIN questions ON question = questions.id "
                "WHERE undone IS NULL AND annotator = coalesce(?, annotator) ORDER BY labels.rowid DESC LIMIT ?",
                [annotator, most],
            ).fetchall()
        return [Label(id, Question.read(content), *rest) for id, content, *rest in rows]

    @property
    def guidelines(self) -> str:
        """For annotators, in Markdown; empty if there are none."""
        with self.reading() as file:
            found = file.execute("SELECT text FROM facts WHERE name = 'guidelines'").fetchone()
        return "" if found is None else str(found[0])

    def tell(self, guidelines: str) -> None:
        """Replace the guidelines."""
        with self.transaction() as file:
            file.execute("INSERT OR REPLACE INTO facts VALUES ('guidelines', ?)", [guidelines])

    def shared(self) -> list[list[float]]:
        """The verdicts on each question with at least two."""
        verdicts: dict[int, list[float]] = {}
        with self.reading() as file:
            rows = file.execute(
                "SELECT question, verdict FROM labels WHERE undone IS NULL AND verdict != 'skip' AND question IN ("
                "SELECT question FROM labels WHERE undone IS NULL AND verdict != 'skip' GROUP BY question "
                "HAVING count(*) > 1)"
            ).fetchall()
        for question, verdict in rows:
            p = VERDICTS[verdict]
            assert p is not None
            verdicts.setdefault(question, []).append(p)
        return list(verdicts.values())

    def _lease(self, annotator: str, question: int, now: float) -> None:
        self._file.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", [annotator, question, now + LEASE_SECONDS])
