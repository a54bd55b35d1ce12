"""Labels to and from files: the common preference format, and the exports of Argilla and Label Studio.

A row of the common format is one annotator's verdict: prompt, chosen, rejected, annotator. A tie is two rows, one in
each order, which a Bradley-Terry loss reads as a preference of one half. Skipped questions are not written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf_flow.prompts.annotation_exports import Comparison, NoComparisonError, comparison
from rlhf_flow.prompts.bad_rows import BadRowError, BadRows
from rlhf_flow.prompts.files import read
from rlhf_flow.prompts.layout import AUTO, lay_out
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.prompts.rows import Columns, Row, question
from rlhf_flow.scorer.annotations import Annotations, Question
from rlhf_flow.types import Message

PAIR = Columns(candidates={"first": "chosen", "second": "rejected"})
UNNAMED = "import"  # the annotator of rows that name none
BOTH = {"first": ("chosen", "rejected"), "second": ("rejected", "chosen")}


def export_labels(annotations: Annotations, path: Path) -> str:
    """Write every verdict that counts to a file of JSON lines, and say how many there are."""
    rows, said = [], Counter[str]()
    labelled = list(annotations.labelled())
    chats = any(len(one.messages) > 1 or one.messages[0].role != "user" for one, _, _ in labelled)
    for one, annotator, verdict in labelled:
        said[verdict] += 1
        prompt = [asdict(message) for message in one.messages] if chats else one.messages[0].content
        for better in ("first", "second"):
            if verdict in (better, "tie"):
                names = BOTH[better]
                rows.append({"prompt": prompt, names[0]: one.first, names[1]: one.second, "annotator": annotator})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    skipped = f"; {said['skip']} skipped questions are not written" if said["skip"] else ""
    ties = f" ({said['tie']} ties are two rows each, one in each order)" if said["tie"] else ""
    return f"{path}: {len(labelled) - said['skip']} verdicts in {len(rows)} rows{ties}{skipped}"


def import_labels(annotations: Annotations, path: str) -> str:
    """Take the verdicts of a file, and say how many there are. Raises ValueError, naming the rows it cannot read.

    A question that the run has keeps its place, also if its answers stand in the other order. An annotator's first
    verdict on a question stays.
    """
    rows = read(path, "--import", Limits())
    bad = BadRows({}, Counter())
    labels: dict[tuple[Question, str], str] = {}
    for one, annotator, verdict in _verdicts(rows, bad):
        turned = Question(one.messages, one.second, one.first)
        if (turned, annotator) in labels:
            one, verdict = turned, {"first": "second", "second": "first"}.get(verdict, verdict)
        before = labels.setdefault((one, annotator), verdict)
        if {before, verdict} == {"first", "second"}:  # both orders of a pair: neither is better
            labels[one, annotator] = "tie"
    bad.check()
    questions, written = annotations.take([(one, annotator, said) for (one, annotator), said in labels.items()])
    known = f", {len(labels) - written} were there" if written < len(labels) else ""
    return f"{path}: {written} verdicts taken{known}; {questions} new questions"


def _verdicts(rows: Sequence[Row | BadRowError], bad: BadRows) -> Iterator[tuple[Question, str, str]]:
    """The question, annotator and verdict of each row; faults go to `bad`."""
    first = next((row for row in rows if isinstance(row, Row)), None)
    exported = first is not None and _exported(first)
    laid_out = None if exported else lay_out(rows, AUTO, PAIR, system=True)
    for row in rows if laid_out is None else laid_out.rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            if laid_out is None:
                yield from _of_export(row)
            else:
                asked = question(row, laid_out.columns)
                annotator = asked.meta.get("annotator", UNNAMED)
                pair = Question(asked.messages, asked.candidates["first"], asked.candidates["second"])
                yield pair, str(annotator), "first"
            bad.good()
        except BadRowError as fault:
            bad.add(fault)


def _exported(row: Row) -> bool:
    try:
        return comparison(row.values) is not None
    except NoComparisonError:
        return True


def _of_export(row: Row) -> list[tuple[Question, str, str]]:
    """The verdicts of a record of Argilla or Label Studio."""
    try:
        found = comparison(row.values)
    except NoComparisonError as error:
        raise BadRowError(row.place, str(error), "export a comparison of two answers, or remove the record") from error
    if found is None:
        raise BadRowError(row.place, "expected a record as the others are", "remove it")
    one = _question(row, found)
    return [(one, annotator, verdict) for annotator, verdict in found.said.items()]


def _question(row: Row, found: Comparison) -> Question:
    values = {"prompt": found.prompt, "chosen": found.first, "rejected": found.second}
    asked = question(Row(row.place, row.number, values), PAIR)
    messages: tuple[Message, ...] = asked.messages
    return Question(messages, asked.candidates["first"], asked.candidates["second"])
