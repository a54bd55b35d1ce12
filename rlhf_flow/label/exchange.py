"""Export and import of labels: the common preference format, and exports of Argilla and Label Studio.

A row of the common format is one annotator's verdict: prompt, chosen, rejected, annotator. A tie is two rows, one in
each order, which a Bradley-Terry loss reads as a preference of 1/2; if both answers are bad, the rows also have `bad`.
Skipped questions are not written.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlhf_flow.prompts.annotation_exports import NoComparisonError, comparison
from rlhf_flow.prompts.bad_rows import BadRowError, BadRows
from rlhf_flow.prompts.files import read
from rlhf_flow.prompts.layout import AUTO, lay_out
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.prompts.parse import Columns, Row, Rows, question, valid
from rlhf_flow.scorer.human.annotations import Annotations
from rlhf_flow.scorer.human.questions import Label, Question
from rlhf_flow.system.private_sqlite import FILE_MODE

PAIR = Columns(candidates={"first": "chosen", "second": "rejected"})
UNNAMED = "import"  # the annotator of rows without one
COLUMNS = {"first": ("chosen", "rejected"), "second": ("rejected", "chosen")}  # of the first and second answer
SWAPPED = {"first": "second", "second": "first"}


@dataclass(frozen=True)
class ImportedLabel:
    """A verdict from a file."""

    question: Question
    annotator: str
    verdict: str  # first, second, tie, bad or skip
    comment: str = ""

    @property
    def swapped(self) -> ImportedLabel:
        """The same verdict with the answers in the other order."""
        asked = Question(self.question.messages, self.question.second, self.question.first)
        return replace(self, question=asked, verdict=SWAPPED.get(self.verdict, self.verdict))


def export_labels(annotations: Annotations, path: Path) -> str:
    """Write every valid verdict to a file of JSON lines. Returns a summary. Raises ValueError if there is none."""
    labels = annotations.labels()[::-1]  # oldest first
    if not (rows := rows_of(labels)):
        raise ValueError(f"--export={path}: there are no labels yet. Fix: label some answers first.")
    path.touch(FILE_MODE)  # labels are private to their user
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    counts = Counter(label.verdict for label in labels)
    skips, ties = counts["skip"], counts["tie"] + counts["bad"]
    skipped = f"; {skips} skipped questions are not written" if skips else ""
    twice = f" ({ties} ties are two rows each, one in each order)" if ties else ""
    return f"{path}: {len(labels) - skips} verdicts in {len(rows)} rows{twice}{skipped}"


def rows_of(labels: Sequence[Label]) -> list[dict[str, object]]:
    """Labels in the common format."""
    chats = any(len(one.question.messages) > 1 or one.question.messages[0].role != "user" for one in labels)
    rows: list[dict[str, object]] = []
    for label in labels:
        asked = label.question
        prompt = [asdict(message) for message in asked.messages] if chats else asked.messages[0].content
        more: dict[str, object] = {"comment": label.comment} if label.comment else {}
        if label.verdict == "bad":
            more["bad"] = True
        for better, (first, second) in COLUMNS.items():
            if label.verdict in (better, "tie", "bad"):
                pair = {"prompt": prompt, first: asked.first, second: asked.second, "annotator": label.annotator}
                rows.append(pair | more)
    return rows


def import_labels(annotations: Annotations, path: str) -> str:
    """Import the verdicts of a file. Returns a summary; raises ValueError, naming the rows that cannot be read.

    A question that the run already has is reused, even with its answers in the other order. An annotator's first
    verdict on a question stays.
    """
    rows = read(path, "--import", Limits())
    bad = BadRows({}, Counter())
    labels: dict[tuple[Question, str], ImportedLabel] = {}
    for one in _labels(rows, bad):
        if (one.swapped.question, one.annotator) in labels:
            one = one.swapped
        before = labels.setdefault((one.question, one.annotator), one)
        if {before.verdict, one.verdict} == {"first", "second"}:  # both orders of a pair: neither is better
            labels[one.question, one.annotator] = replace(before, verdict="tie")
    bad.check()
    questions, written = _insert(annotations, [*labels.values()])
    known = f", {len(labels) - written} already known" if written < len(labels) else ""
    return f"{path}: {written} verdicts imported{known}; {questions} new questions"


def _insert(annotations: Annotations, labels: Sequence[ImportedLabel]) -> tuple[int, int]:
    """Write labels; returns the numbers of new questions and of labels that were written."""
    questions = written = 0
    with annotations.transaction() as file:
        for one in labels:
            found = None
            for label in (one.swapped, one):
                row = file.execute("SELECT id FROM questions WHERE key = ?", [label.question.key]).fetchone()
                if row is not None:
                    found, one = row, label
            if found is None:
                questions += 1
                found = file.execute(
                    "INSERT INTO questions (key, content, needed, asked) VALUES (?, ?, 1, ?) RETURNING id",
                    [one.question.key, one.question.content, time.time()],
                ).fetchone()
            id = hashlib.sha256(json.dumps(["import", one.question.key, one.annotator]).encode()).hexdigest()
            word, bad = ("tie", True) if one.verdict == "bad" else (one.verdict, False)
            written += file.execute(
                "INSERT OR IGNORE INTO labels (id, question, annotator, verdict, at, comment, bad) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [id, *found, one.annotator, word, time.time(), one.comment, bad],
            ).rowcount
    return questions, written


def _labels(rows: Rows, bad: BadRows) -> Iterator[ImportedLabel]:
    """The verdicts of the rows; faults go to `bad`."""
    first = next((row for row in rows if isinstance(row, Row)), None)
    laid_out = None if first is not None and _is_export(first) else lay_out(rows, AUTO, PAIR, system=True)
    for row in rows if laid_out is None else laid_out.rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            yield from _of_export(row) if laid_out is None else _of_pair(row, laid_out.columns)
            bad.good()
        except BadRowError as fault:
            bad.add(fault)


def _is_export(row: Row) -> bool:
    try:
        return comparison(row.values) is not None
    except NoComparisonError:
        return True


def _of_pair(row: Row, columns: Columns) -> list[ImportedLabel]:
    """The verdict of a row in the common format."""
    asked = question(row, columns)
    pair = Question(asked.messages, asked.candidates["first"], asked.candidates["second"])
    verdict = "bad" if asked.meta.get("bad") is True else "first"
    return [
        ImportedLabel(pair, str(asked.meta.get("annotator", UNNAMED)), verdict, str(asked.meta.get("comment") or ""))
    ]


def _of_export(row: Row) -> list[ImportedLabel]:
    """The verdicts of a record of Argilla or Label Studio."""
    try:
        found = comparison(row.values)
    except NoComparisonError as error:
        raise row.error(str(error), "export a comparison of two answers, or remove the record") from error
    if found is None:
        raise row.error("expected a record of the same tool as the first one", "remove it")
    values = {"prompt": found.prompt, "chosen": found.first, "rejected": found.second}
    (pair,) = _of_pair(Row(row.place, row.number, values), PAIR)
    return [
        ImportedLabel(pair.question, valid(row, "the name of an annotator", annotator), verdict)
        for annotator, verdict in found.verdicts.items()
    ]
