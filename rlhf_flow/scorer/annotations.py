"""What people were asked and what they said: one SQLite file, shared by the run that asks and the servers that show.

A label is on disk before it is acknowledged. An annotator has one verdict on a question at most, however often it is
sent; one that was undone stays in the file, and counts no more.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rlhf_flow.scorer.annotations_sql import NEXT, TABLES
from rlhf_flow.types import Message

FILE = "labels.sqlite"
VERDICTS = {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}  # P(first beats second) as the annotator says it
LEASE_SECONDS = 60.0  # that a question is kept for the annotator who is looking at it
WAIT_SECONDS = 60.0  # for the lock of another process, which holds it for one transaction
AT_ONCE = 500  # keys in one SELECT


@dataclass(frozen=True)
class Question:
    """Two answers to a conversation, as they are put before people."""

    messages: tuple[Message, ...]
    first: str
    second: str

    @cached_property
    def key(self) -> str:
        """What it is told apart by: the same texts in the same order are the same question."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def content(self) -> str:
        """As it is written down."""
        messages = [[message.role, message.content] for message in self.messages]
        return json.dumps([messages, self.first, self.second])

    @classmethod
    def read(cls, content: str) -> Question:
        messages, first, second = json.loads(content)
        return cls(tuple(Message(role, text) for role, text in messages), first, second)


@dataclass(frozen=True)
class Standing:
    """What was said about a question so far."""

    needed: int  # verdicts, of different annotators
    due: float | None  # seconds since the epoch: until when they are waited for
    said: Mapping[str, str]  # annotator -> one of VERDICTS

    @property
    def verdicts(self) -> list[float]:
        """P(first beats second), of each annotator who has one."""
        return [p for p in map(VERDICTS.__getitem__, self.said.values()) if p is not None]

    @property
    def settled(self) -> bool:
        """Whether enough annotators have a verdict, or enough have skipped it."""
        return len(self.verdicts) >= self.needed or self.skipped

    @property
    def skipped(self) -> bool:
        """Whether so many have skipped it as verdicts were needed, and it is no question for people."""
        return list(self.said.values()).count("skip") >= self.needed

    def overdue(self, now: float) -> bool:
        """Whether it is not settled, and not waited for any more."""
        return not self.settled and self.due is not None and self.due <= now


@dataclass(frozen=True)
class Progress:
    """How far labelling is."""

    mine: int  # verdicts of one annotator, skipped questions among them
    asked: int
    open: int  # questions that need more verdicts


class Annotations:
    """The file at work. Many threads may use one, many processes one file."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where there is no such file and none can be made."""
        path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")  # a label outlives the machine's power
            with self._transaction():
                for statement in TABLES.split(";"):
                    self._file.execute(statement)
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
        with self._transaction() as file:
            file.executemany(
                "INSERT INTO questions (key, content, needed, asked, due) "
                "VALUES (:key, :content, :needed, :now, :now + :deadline) "
                "ON CONFLICT (key) DO UPDATE SET needed = :needed, due = asked + :deadline",
                rows,
            )

    def standings(self, questions: Sequence[Question]) -> list[Standing]:
        """Of questions that were asked, in their order."""
        found: dict[str, tuple[int, float | None, dict[str, str]]] = {}
        with self._lock:
            for at in range(0, len(questions), AT_ONCE):
                keys = [question.key for question in questions[at : at + AT_ONCE]]
                rows = self._file.execute(
                    "SELECT key, needed, due, annotator, verdict FROM questions "
                    "LEFT JOIN labels ON question = questions.id AND undone IS NULL "
                    f"WHERE key IN ({', '.join('?' * len(keys))}) ORDER BY annotator",
                    keys,
                )
                for key, needed, due, annotator, verdict in rows:
                    *_, said = found.setdefault(key, (needed, due, {}))
                    if annotator is not None:
                        said[annotator] = verdict
        return [Standing(*found[question.key]) for question in questions]

    # -- the people ----------------------------------------------------------------------------------------------------

    def hand(self, annotator: str) -> Question | None:
        """A question for this annotator, and for nobody else for a while; None where there is none.

        It is the one that they had last, as long as it is theirs to answer. Those that are waited for come first.
        """
        now = time.time()
        with self._transaction() as file:
            found = file.execute(NEXT, {"me": annotator, "now": now}).fetchone()
            if found is None:
                file.execute("DELETE FROM leases WHERE annotator = ?", [annotator])
                return None
            self._lease(annotator, found[0], now)
            (content,) = file.execute("SELECT content FROM questions WHERE id = ?", found).fetchone()
        return Question.read(content)

    def label(self, id: str, key: str, annotator: str, verdict: str) -> None:
        """Write down what an annotator says of the question; on disk once this returns.

        `id` is the client's own: what was sent again is written once, also when it was undone meanwhile. So is a second
        verdict of the same annotator on the same question: the first stays.
        Raises ValueError for a verdict, or a question, that there is not.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"the verdict must be one of {', '.join(VERDICTS)}, got {verdict!r}")
        with self._transaction() as file:
            question = file.execute("SELECT id FROM questions WHERE key = ?", [key]).fetchone()
            if question is None:
                raise ValueError(f"there is no question {key!r}")
            file.execute(
                "INSERT OR IGNORE INTO labels (id, question, annotator, verdict, at) VALUES (?, ?, ?, ?, ?)",
                [id, *question, annotator, verdict, time.time()],
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
        with self._transaction() as file:
            taken = file.execute(
                "UPDATE labels SET undone = ? WHERE id = ? AND annotator = ? AND undone IS NULL RETURNING question",
                [now, id, annotator],
            ).fetchall()
            for (question,) in taken:
                self._lease(annotator, question, now)

    def progress(self, annotator: str) -> Progress:
        with self._lock:
            found = self._file.execute(
                "SELECT (SELECT count(*) FROM labels WHERE annotator = ? AND undone IS NULL), count(*), "
                "coalesce(sum(open), 0) FROM standings",
                [annotator],
            ).fetchone()
        return Progress(*found)

    def shared(self) -> list[list[float]]:
        """The verdicts on each question that two annotators or more have one on."""
        verdicts: dict[int, list[float]] = {}
        with self._lock:
            rows = self._file.execute(
                "SELECT question, verdict FROM labels WHERE undone IS NULL AND verdict != 'skip' AND question IN "
                "(SELECT id FROM standings WHERE said > 1)"
            ).fetchall()
        for question, verdict in rows:
            p = VERDICTS[verdict]
            assert p is not None
            verdicts.setdefault(question, []).append(p)
        return list(verdicts.values())

    # -- files ---------------------------------------------------------------------------------------------------------

    def labelled(self) -> list[tuple[Question, str, str]]:
        """Question, annotator and verdict of every label that counts, in the order of the questions."""
        with self._lock:
            rows = self._file.execute(
                "SELECT content, annotator, verdict FROM labels JOIN questions ON question = questions.id "
                "WHERE undone IS NULL ORDER BY questions.id, labels.rowid"
            ).fetchall()
        return [(Question.read(content), annotator, verdict) for content, annotator, verdict in rows]

    def take(self, labels: Sequence[tuple[Question, str, str]]) -> tuple[int, int]:
        """Write labels from elsewhere; returns the numbers of new questions and of labels that were written.

        A question that is there in either order of its answers is the same one. An annotator's own verdict stays.
        """
        questions = written = 0
        with self._transaction() as file:
            for one, annotator, verdict in labels:
                turned = Question(one.messages, one.second, one.first)
                found = file.execute("SELECT id FROM questions WHERE key = ?", [one.key]).fetchone()
                if found is None:
                    found = file.execute("SELECT id FROM questions WHERE key = ?", [turned.key]).fetchone()
                    if found is not None:
                        verdict = {"first": "second", "second": "first"}.get(verdict, verdict)
                if found is None:
                    found = file.execute(
                        "INSERT INTO questions (key, content, needed, asked) VALUES (?, ?, 1, ?) RETURNING id",
                        [one.key, one.content, time.time()],
                    ).fetchone()
                    questions += 1
                id = hashlib.sha256(json.dumps(["import", one.key, annotator]).encode()).hexdigest()
                written += file.execute(
                    "INSERT OR IGNORE INTO labels (id, question, annotator, verdict, at) VALUES (?, ?, ?, ?, ?)",
                    [id, *found, annotator, verdict, time.time()],
                ).rowcount
        return questions, written

    def _lease(self, annotator: str, question: int, now: float) -> None:
        self._file.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", [annotator, question, now + LEASE_SECONDS])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
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
