"""`rlhf-flow judgements`: list, prune and export a cache of judgements."""

from __future__ import annotations

import json
import sqlite3
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.scorer.wrappers.judgement_cache import UNKNOWN, JudgementCache, path_of

DAY = 86_400  # seconds
ROWS = f"""SELECT judgements.key, reply, coalesce(source, '{UNKNOWN}') AS source, coalesce(kept, 0) AS kept
    FROM judgements LEFT JOIN about USING (key)"""


def main(arguments: Sequence[str]) -> int:
    """Raises ValueError if the arguments are wrong or there is no such cache."""
    options = _parser().parse_args(arguments)
    path = path_of(options.cache)
    if not path.is_file():
        raise ValueError(f"--cache={path}: there is no such file. Fix: name the file of scorer.budget.cache.")
    judgements = JudgementCache(path, key="--cache")
    try:
        before = None if options.older_than is None else time.time() - options.older_than * DAY
        if options.what == "prune":
            if before is None and options.source is None:
                raise ValueError("prune needs --older-than=DAYS, --source=TEXT or both. Fix: --source='' for all.")
            print(f"{_prune(judgements, before, options.source)} judgements removed from {path}")
        elif options.what == "export":
            _export(judgements, before, options.source)
        else:
            _list(judgements, path)
    finally:
        judgements.close()
    return 0


def _parser() -> ArgumentParser:
    parser = Arguments("rlhf-flow judgements")
    parser.add_argument("what", choices=("list", "prune", "export"), nargs="?", default="list")
    parser.add_argument("--cache")
    parser.add_argument("--older-than", type=float)
    parser.add_argument("--source")
    return parser


def _list(judgements: JudgementCache, path: Path) -> None:
    with judgements.reading() as file:
        rows = file.execute(
            f"SELECT source, count(*), sum(length(reply)), min(kept), max(kept) FROM ({ROWS}) "
            "GROUP BY source ORDER BY 2 DESC"
        ).fetchall()
        spent = _accounts(file)
    print(f"{path}: {sum(row[1] for row in rows)} judgements")
    for source, number, size, first, last in rows:
        print(f"  {number:>8,}  {size / 1024:>9,.0f} KiB  {_day(first)} to {_day(last)}  {source}")
    for name, calls, tokens, cost in spent:
        print(f"  account {name}: {calls:,} calls, {tokens:,} tokens, cost {cost / 1e6:,.2f}")


def _accounts(file: sqlite3.Connection) -> list[tuple[str, int, int, int]]:
    """Calls, tokens and millionths of a currency unit by account; empty for a cache without accounts."""
    exists = file.execute("SELECT 1 FROM sqlite_master WHERE name = 'accounts'").fetchone()
    return file.execute("SELECT name, calls, tokens, cost FROM accounts ORDER BY name").fetchall() if exists else []


def _chosen(before: float | None, source: str | None) -> tuple[str, dict[str, object]]:
    where = "(:before IS NULL OR kept < :before) AND (:source IS NULL OR instr(source, :source))"
    return f"FROM ({ROWS}) WHERE {where}", {"before": before, "source": source}


def _prune(judgements: JudgementCache, before: float | None, source: str | None) -> int:
    chosen, values = _chosen(before, source)
    with judgements.transaction() as file:
        keys = file.execute(f"SELECT key {chosen}", values).fetchall()
        file.executemany("DELETE FROM judgements WHERE key = ?", keys)
        file.executemany("DELETE FROM about WHERE key = ?", keys)
    return len(keys)


def _export(judgements: JudgementCache, before: float | None, source: str | None) -> None:
    """Write one JSON object per line to stdout."""
    chosen, values = _chosen(before, source)
    with judgements.reading() as file:
        for key, reply, said_by, kept in file.execute(f"SELECT key, reply, source, kept {chosen} ORDER BY key", values):
            print(json.dumps({"key": key, "source": said_by, "kept": kept, "reply": json.loads(reply)}))


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d") if seconds else "?"
