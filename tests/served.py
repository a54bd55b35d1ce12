"""`rlhf-flow serve` in a process of its own, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

WAIT = 300.0  # seconds; on a busy machine a process takes its time
TOKEN = "a-token-that-nobody-may-see"
JUDGES = '''
"""Judges that can be held up: an answer with "wait" in it is judged once the file `go` is there."""
import os, time
from dataclasses import dataclass
from pathlib import Path
from rlhf_flow.scorer.rule import Rule
from rlhf_flow.types import Verdict

GATE = Path(os.environ.get("GATE", "."))

def hold(name):
    (GATE / f"{name}-{os.getpid()}").touch()
    while not (GATE / "go").exists():
        time.sleep(0.01)

def worth(messages, answer, meta):
    if "wait" in answer:
        hold("scoring")
    if "refuse" in answer:
        return "no number"
    if "break" in answer:
        raise KeyError("a secret of the server")
    return Verdict(len(answer) / 3, {"level": meta["level"]})

@dataclass(frozen=True)
class Slow(Rule):
    def open(self, place):
        hold("opening")
        return super().open(place)
'''


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    said: SimpleQueue[str]  # lines on stdout and stderr

    def line(self, part: str) -> str:
        """The next line that it says with `part` in it."""
        lines, end = [], time.monotonic() + WAIT
        while time.monotonic() < end and (self.process.poll() is None or not self.said.empty()):
            try:
                lines.append(self.said.get(timeout=0.1))
            except Empty:
                continue
            if part in lines[-1]:
                return lines[-1]
        raise AssertionError(f"no line with {part!r}, but: {''.join(lines)}")

    def url(self) -> str:
        return self.line("serving scorer=").split()[-1]


@contextmanager
def serving(*arguments: str, folder: Path, **environment: str) -> Iterator[Served]:
    """`rlhf-flow serve` with such arguments, and with the judges above in `folder`, as the module `judges`."""
    (folder / "judges.py").write_text(JUDGES)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_flow", "serve", "port=0", *arguments],
        env={**os.environ, "PYTHONPATH": str(folder), "GATE": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield Served(process, said)
    finally:
        process.kill()
        process.wait()
        listener.join()


def until(path: Path, pattern: str) -> None:
    """Wait for a file."""
    end = time.monotonic() + WAIT
    while not list(path.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {path}"
        time.sleep(0.01)
