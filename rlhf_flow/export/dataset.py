"""`rlhf-flow export pairs|sft|labels`: one file with the data of a run's rounds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rlhf_flow.export import data
from rlhf_flow.export.rounds import Rounds
from rlhf_flow.export.table_file import write_rows

KINDS = {  # the rows, their columns, and what a run without rows lacks
    "pairs": (data.pairs, data.PAIRS, "pairs"),
    "sft": (data.best_answers, data.SFT, "complete answers with a score"),
    "labels": (data.labels, data.LABELS, "answers that win or lose against others"),
}


def write_dataset(kind: str, run: Path, *, rounds: str | None = None, out: Path | None = None) -> tuple[Path, str]:
    """Write a file of one of `KINDS`; return its path and a summary. Held-out prompts are not exported.

    `rounds`: such as 1-3,5; None: all. `out`: by default RUN/export/<kind>.parquet.

    Raises ValueError, and writes nothing, if the folder holds no run, lacks a wanted round or has no such data.
    """
    chosen, count = Rounds(run, rounds), Counter[str]()
    path = run / "export" / f"{kind}.parquet" if out is None else out
    rows_of, schema, noun = KINDS[kind]
    written = write_rows(path, rows_of(chosen, count), schema)
    if not written:
        fix = data.instead(chosen) if chosen.numbers else "export again after the first round"
        raise ValueError(f"{run} has no {noun}. Fix: {fix}.")
    return path, _sentence(kind, written, count)


def _sentence(kind: str, written: int, count: Counter[str]) -> str:
    if kind == "pairs":
        return f"{written} pairs" + (f", {count['ties']} of them ties (preference 0.5)" if count["ties"] else "")
    if kind == "sft":
        left = f"; {count['unanswered']} prompts have no complete answer with a score" if count["unanswered"] else ""
        return f"{written} prompts with their best answer{left}"
    return f"{written} labelled answers" + (f"; {count['ties']} ties are left out" if count["ties"] else "")
