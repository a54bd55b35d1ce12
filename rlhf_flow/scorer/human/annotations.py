"""What people were asked and what they said: one SQLite file, shared by the run that asks and the servers that show.

A label is on disk before it is acknowledged. An annotator has one verdict on a question at most, however often it is
sent; one that was undone, or replaced, stays in the file, and counts no more.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf_flow.scorer.human.questions import SKIPPERS, VERDICTS, Label, Progress, Question, Standing
from rlhf_flow.system.private_sqlite import connect

FILE = "labels.sqlite"
LONGEST_COMMENT = 4000  # characters
AWAY_SECONDS = 3600.0  # without a label or a look, after which an annotator is not waited for
LEASE_SECONDS = 60.0  # that a question is kept for the annotator who is looking at it
AT_ONCE = 500  # keys in one SELECT

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
# `open`: not settled, as `Standing` has it. `shown`: one that a person skips is still shown to others.
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
# What files of earlier releases lack. Their `verdict` takes no other words, so `bad` is a tie that is marked.
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


class Annotations:
    """The file at work. Many threads may use one, many processes one file."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where there is no such file and none can be made."""
        self.path = path = folder.absolute() / FILE
        self._lock = threading.Lock()
        try:
            self._file = connect(path)
            with self.transaction():
                for statement in TABLES.split(";"):
                    self._file.execute(statement)
                known = {row[1] for row in self._file.execute("PRAGMA table_info(labels)")}
                for name in COLUMNS.keys() - known:
                    self._file.execute(f"ALTER TABLE labels ADD COLUMN {name} {COLUMNS[name]}")
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"scorer.folder must be a folder for labels that can be written; {path} is no such file: {error}. "
                "Name another folder, on a drive of this machine."
            ) from error

    def close(self) -> None:
        with self._lock:
            self._file.close()

    # -- the run -------------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question], *, needed: int, deadline: float | None) -> None:
        """Put questions to people. One that was asked before keeps the time when it first was, and what was said.

        needed: verdicts of different annotators. deadline: seconds from when a question was first asked.
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
        """Of questions that were asked, in their order."""
        found: dict[str, tuple[int, float | None, dict[str, str], bool]] = {}
        with self._lock:
            for at in range(0, len(questions), AT_ONCE):
                keys = {f"k{n}": question.key for n, question in enumerate(questions[at : at + AT_ONCE])}
                rows = self._file.execute(
                    f"{STANDINGS} SELECT key, needed, due, awaited, annotator, {VERDICT} FROM standings "
                    "LEFT JOIN labels ON question = standings.id AND undone IS NULL "
                    f"WHERE key IN ({', '.join(f':{name}' for name in keys)}) ORDER BY annotator",
                    {"now": time.time(), **keys},
                )
                for key, needed, due, awaited, annotator, verdict in rows:
                    *_, said, _ = found.setdefault(key, (needed, due, {}, bool(awaited)))
                    if annotator is not None:
                        said[annotator] = verdict
        return [Standing(*found[question.key]) for question in questions]

    # -- the people ----------------------------------------------------------------------------------------------------

    def hand(self, annotator: str) -> Question | None:
        """A question for this annotator, reserved for a while; None if there is none.

        It is the one that they had last, as long as it is theirs to answer. Those that are waited for come first.
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
        """Write down what an annotator says of the question; on disk once this returns.

        `id` is the client's own: what was sent again is written once, also when it was undone meanwhile. So is a second
        verdict of the same annotator on the same question: the first stays, but for the one that is said `instead` of
        the label with that id.
        Raises ValueError for a verdict, a comment or a question that there is not.
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
        with self._lock:
            found = self._file.execute(
                "SELECT id FROM labels WHERE annotator = ? AND undone IS NULL ORDER BY rowid DESC LIMIT 1",
                [annotator],
            ).fetchone()
        return None if found is None else str(found[0])

    def undo(self, id: str, annotator: str) -> None:
        """Take a label of this annotator back, and hand them its question again. Once undone, nothing happens.

        What a run has read already, it has read.
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
        """Undo this annotator's skips of undecided questions, which are then handed out to them again."""
        with self.transaction() as file:
            file.execute(
                f"{STANDINGS} UPDATE labels SET undone = :now WHERE annotator = :me AND verdict = 'skip' "
                "AND undone IS NULL AND question IN (SELECT id FROM standings WHERE said < needed)",
                {"now": time.time(), "me": annotator},
            )

    def progress(self, annotator: str) -> Progress:
        with self._lock:
            found = self._file.execute(
                f"{STANDINGS} SELECT (SELECT count(*) FROM labels WHERE annotator = :me AND undone IS NULL), "
                "count(*), coalesce(sum(open), 0), (SELECT count(*) FROM labels JOIN standings AS one "
                "ON question = one.id WHERE annotator = :me AND undone IS NULL AND verdict = 'skip' "
                "AND one.said < one.needed) FROM standings",
                {"me": annotator, "now": time.time()},
            ).fetchone()
        return Progress(*found)

    def labels(self, annotator: str | None = None, *, most: int = -1) -> list[Label]:
        """Those that count, the latest first; of one annotator, or of all."""
        with self._lock:
            rows = self._file.execute(
                f"SELECT labels.id, content, annotator, {VERDICT}, comment, at FROM labels "
                "JOIN questions ON question = questions.id "
                "WHERE undone IS NULL AND annotator = coalesce(?, annotator) ORDER BY labels.rowid DESC LIMIT ?",
                [annotator, most],
            ).fetchall()
        return [Label(id, Question.read(content), *rest) for id, content, *rest in rows]

    @property
    def guidelines(self) -> str:
        """What annotators are told, in Markdown; empty if they are told nothing."""
        with self._lock:
            found = self._file.execute("SELECT text FROM facts WHERE name = 'guidelines'").fetchone()
        return "" if found is None else str(found[0])

    def tell(self, guidelines: str) -> None:
        """Show annotators this text from now on."""
        with self.transaction() as file:
            file.execute("INSERT OR REPLACE INTO facts VALUES ('guidelines', ?)", [guidelines])

    def shared(self) -> list[list[float]]:
        """The verdicts on each question that two annotators or more have one on."""
        verdicts: dict[int, list[float]] = {}
        with self._lock:
            rows = self._file.execute(
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

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, of all processes: what is read in it stays true until it is written."""
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
