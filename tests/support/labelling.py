"""`rlhf-flow label` in a process of its own, and questions for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import httpx

from rlhf_flow.scorer.human.annotations import Annotations, Question
from rlhf_flow.types import Message
from tests.support.browser import Browser, Tab

WAIT = 120.0  # seconds; on a busy machine a process takes its time


def question(first: str, second: str, *, asked: str = "What is it?") -> Question:
    return Question((Message("user", asked),), first, second)


def questions(number: int) -> list[Question]:
    """A few pairs whose first answers say so."""
    return [question(f"first {k}", f"second {k}", asked=f"Question {k}?") for k in range(number)]


def ask(folder: Path, asked: Sequence[Question], *, needed: int = 1, deadline: float | None = None) -> None:
    """As a run does."""
    annotations = Annotations(folder)
    try:
        annotations.ask(asked, needed=needed, deadline=deadline)
    finally:
        annotations.close()


def verdicts(folder: Path, asked: Sequence[Question]) -> list[dict[str, str]]:
    """What each annotator says of each question, as a run reads it."""
    annotations = Annotations(folder)
    try:
        return [dict(one.said) for one in annotations.standings(asked)]
    finally:
        annotations.close()


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    run: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def labelling(run: Path, *arguments: str, port: int = 0, **environment: str) -> Iterator[Server]:
    """`rlhf-flow label RUN`, once it listens."""
    command = [sys.executable, "-m", "rlhf_flow", "label", str(run), "--port", str(port), *arguments]
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said: SimpleQueue[str] = SimpleQueue()
    assert process.stdout is not None
    listener = Thread(target=lambda lines: [said.put(line) for line in lines], args=[process.stdout], daemon=True)
    listener.start()
    try:
        yield Server(process, _url(said), run)
    finally:
        process.kill()
        process.wait()
        listener.join()


def _url(said: SimpleQueue[str]) -> str:
    heard = ""
    while "http://" not in heard:
        try:
            heard += said.get(timeout=WAIT)
        except Empty:
            raise AssertionError(f"no server, but: {heard}") from None
    return heard.split()[-1]


def client(server: Server, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=headers, timeout=WAIT, trust_env=False)


# -- the page, as people use it ---------------------------------------------------------------------------------------

READY = "!document.querySelector('#ask').hidden && !document.querySelector('[aria-disabled]')"
RESTING = "!document.querySelector('#rest').hidden"


def joined(browser: Browser, server: Server, name: str) -> Tab:
    tab = browser.tab()
    tab.open(server.url)
    tab.until("!document.querySelector('#join').hidden")
    tab.type("#name", name)
    tab.click("#join button")
    tab.until(f"{READY} || {RESTING}")
    return tab


def text(tab: Tab) -> str:
    return str(tab.run("document.querySelector('#ask').innerText"))
