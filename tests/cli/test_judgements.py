"""`rlhf-flow judgements`: what is kept, by whom and since when; some of it removed, some of it exported."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.wrappers.judgement_cache import JudgementCache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three replies of a paid judge, one of them old; one of a rule; one that version 0.1 kept."""
    path = tmp_path / "cache.sqlite"
    held = Budget(account="my/run", cache=str(path), price_per_million_in=1.0).open()
    for key in "abc":
        kept = {key: json.dumps({"text": "A", "begins": []})}
        held.settle(held.reserve(tokens=9, cost=9), kept, tokens=5, cost=5, source="m at http://127.0.0.1:1/v1")
    held.close()
    judgements = JudgementCache(path, key="--cache")
    judgements.keep({"d": json.dumps({"utility": 1.0, "aspects": {}})}, source="rule")
    judgements.close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE about SET kept = ? WHERE key = 'a'", [int(time.time()) - 90 * 86_400])
        file.execute("INSERT INTO judgements VALUES ('e', '{}')")
    return path


def kept(path: Path) -> str:
    with sqlite3.connect(path) as file:
        return "".join(key for (key,) in file.execute("SELECT key FROM judgements ORDER BY key"))


def test_they_are_listed_by_who_said_them(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judgements", f"--cache={cache}"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{cache}: 5 judgements"
    assert "3 " in lines[0] and lines[0].endswith("m at http://127.0.0.1:1/v1")
    assert {line.split("  ")[-1] for line in lines[1:3]} == {"rule", "an earlier version"}
    assert lines[3].split() == ["account", "my/run:", "3", "calls,", "15", "tokens,", "cost", "0.00"]


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (["--older-than=30"], "bcd"),
        (["--source=rule"], "abce"),
        (["--source=http://127", "--older-than=30"], "bcde"),
        (["--source="], ""),
    ],
)
def test_some_are_removed(cache: Path, which: list[str], left: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judgements", "prune", f"--cache={cache}", *which]) == 0
    assert kept(cache) == left and capsys.readouterr().out.startswith(f"{5 - len(left)} judgements removed")


def test_they_are_exported_as_lines_of_json(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judgements", "export", f"--cache={cache}", "--source=m at"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["key"] for row in rows] == ["a", "b", "c"] and rows[0]["reply"] == {"text": "A", "begins": []}
    assert kept(cache) == "abcde"


def test_a_mistake_is_one_line_with_the_way_out(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["list", "--cache=no/such.sqlite"], "--cache=no/such.sqlite: there is no such file"),
        (["prune", f"--cache={cache}"], "prune needs --older-than=DAYS"),
        (["prnue", f"--cache={cache}"], "invalid choice: 'prnue'"),
        (["prune", "--older-than=soon"], "--older-than"),
    ):
        assert main(["judgements", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert main(["judgements", "--help"]) == 0
    assert "--older-than DAYS" in capsys.readouterr().out
