"""Output for the user, apart from that of libraries, which goes to a file."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rlhf_flow.system.redact import redacted

STDOUT, STDERR = 1, 2  # file descriptors
SHOWN = 15  # lines of a log
NOTE = "The traceback and the output of libraries are in "

_receivers: list[Callable[[str], None]] = []  # the last one gets the messages


def tell(message: str) -> None:
    """Show the user a message, also while the output of libraries goes to a file."""
    if _receivers:
        _receivers[-1](message)
    else:
        print(message, flush=True)


@contextlib.contextmanager
def received_by(receiver: Callable[[str], None]) -> Iterator[None]:
    """`receiver` gets the messages of the block."""
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.remove(receiver)


@contextlib.contextmanager
def kept_in(path: Path) -> Iterator[TextIO]:
    """Append all other output of the block to a file: of Python, of C libraries and of child processes.

    Yields the stream that `sys.stdout` was, for output to the user. If the block raises an Exception, the file also
    gets its traceback, and the error a note with the last lines of the block (`log_note`).
    """
    start = path.stat().st_size if path.exists() else 0
    try:
        with _redirected(path) as user:
            yield user
    except Exception as error:
        last = "".join(f"{line}\n" for line in tail(path, start, SHOWN))
        with path.open("a", encoding="utf-8") as file:
            file.write(redacted(traceback.format_exc()))
        error.add_note(f"{last}{NOTE}{path}")
        raise


@contextlib.contextmanager
def kept_on_failure(path: Path) -> Iterator[None]:
    """As `kept_in`, but if the block succeeds or is interrupted, the file is as it was before."""
    start = path.stat().st_size if path.exists() else None
    failed = False
    try:
        with kept_in(path):
            yield
    except Exception:
        failed = True
        raise
    finally:
        if not failed and start is None:
            path.unlink(missing_ok=True)
        elif not failed:
            os.truncate(path, start or 0)


def log_note(error: BaseException) -> str | None:
    """The last lines of libraries before an error, and where its traceback is; None if `kept_in` did not see it."""
    notes: list[str] = vars(error).get("__notes__", [])
    return next((note for note in notes if NOTE in note), None)


@contextlib.contextmanager
def _redirected(path: Path) -> Iterator[TextIO]:
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(_copy_of_stdout())
        file = stack.enter_context(path.open("a", encoding="utf-8", buffering=1))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (STDOUT, STDERR):
            stack.callback(_restore, os.dup(descriptor), descriptor)
            os.dup2(file.fileno(), descriptor)
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        stack.enter_context(received_by(lambda message: print(message, file=user, flush=True)))
        yield user


@contextlib.contextmanager
def _copy_of_stdout() -> Iterator[TextIO]:
    """`sys.stdout`; if it writes to the process's standard output, a stream that still does after a redirection."""
    try:
        is_process_output = sys.stdout.fileno() == STDOUT
    except OSError:  # a notebook or a test replaced it
        is_process_output = False
    if not is_process_output:
        yield sys.stdout
        return
    with os.fdopen(os.dup(STDOUT), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as stream:
        yield stream


def _restore(copy: int, descriptor: int) -> None:
    os.dup2(copy, descriptor)
    os.close(copy)


def tail(path: Path, start: int, lines: int) -> list[str]:
    """The last lines of a file from the byte `start` on; progress bars count as their last state."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    shown = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return [line for line in shown if line][-lines:]
