"""The output of libraries goes to a file, messages for the user do not, and a failure shows the end of the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_flow.system.output import kept_in, kept_on_failure, log_note, received_by, tail, tell

NOISE = """
import logging, os, subprocess, sys
from pathlib import Path
from rlhf_flow.system.output import kept_in, tell
late = logging.StreamHandler()  # made before, as handlers of libraries are
print("before")
with kept_in(Path(sys.argv[1])) as user:
    print("a library")
    os.write(2, b"from C\\n")
    subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
    late.emit(logging.makeLogRecord({"msg": "a handler"}))
    print("for the user", file=user)
    tell("a message")
print("after")
"""


def test_all_output_but_that_for_the_user_is_in_the_file(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    done = subprocess.run([sys.executable, "-c", NOISE, str(log)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["before", "for the user", "a message", "after"]
    assert done.stderr == ""
    assert log.read_text().splitlines() == ["a library", "from C", "a child", "a handler"]


def test_an_error_is_noted_with_the_last_lines_of_its_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"
    log.write_text("of an earlier start\n")
    with pytest.raises(KeyError) as raised, kept_in(log):
        print("\n".join(f"line {at}" for at in range(99)))
        os.write(1, b"10 %\r100 %\n")
        tell("a message")
        raise KeyError("gone")
    note = log_note(raised.value)
    assert note is not None
    *shown, where = note.splitlines()
    assert shown == [*(f"line {at}" for at in range(85, 99)), "100 %"]
    assert where.endswith(f"are in {log}")
    assert "KeyError: 'gone'" in log.read_text()
    assert capsys.readouterr().out == "a message\n"
    assert log_note(KeyError()) is None


@pytest.mark.parametrize("before", ["", "of an earlier failure\n"])
def test_without_a_failure_a_file_is_as_it_was(before: str, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    if before:
        log.write_text(before)
    with kept_on_failure(log):
        print("a library")
    assert (log.read_text() if log.exists() else "") == before
    with pytest.raises(KeyboardInterrupt), kept_on_failure(log):
        print("a library")
        raise KeyboardInterrupt
    assert (log.read_text() if log.exists() else "") == before
    with pytest.raises(KeyError), kept_on_failure(log):
        raise KeyError("gone")
    assert log.read_text().startswith(f"{before}Traceback")


def test_an_interrupt_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), kept_in(tmp_path / "log.txt"):
        raise KeyboardInterrupt
    assert (tmp_path / "log.txt").read_text() == ""


def test_the_innermost_receiver_gets_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    outer: list[str] = []
    inner: list[str] = []
    with received_by(outer.append):
        with received_by(inner.append):
            tell("one")
        tell("two")
    tell("three")
    assert (inner, outer, capsys.readouterr().out) == (["one"], ["two"], "three\n")


def test_a_file_is_read_from_where_the_block_began(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"old\nnew\n\n\xff\n")
    assert tail(path, 4, 9) == ["new", "�"]
    assert tail(path, 4, 1) == ["�"]
