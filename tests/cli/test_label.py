"""`rlhf-flow label`: what it refuses, how it ends, and a whole run that people judge."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.label.markdown import to_html
from rlhf_flow.scorer.human.annotations import FILE, Annotations, Progress
from rlhf_flow.types import Message
from tests.support import tiny
from tests.support.labelling import Server, client, labelling, questions
from tests.support.labelling import ask as ask_people

pytest.importorskip("fastapi")
pytestmark = pytest.mark.slow

WAIT = 300.0  # seconds; on a busy machine a process takes its time
TOKEN = "a-token-that-nobody-may-see"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{run}/nothing"], "{run}/nothing is not the folder of a run. Fix: start the run first"),
        (["{run}", "--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach it"),
        (["{run}", "--token-env", "NO_SUCH_TOKEN"], "--token-env must name an environment variable that holds a token"),
        (
            ["{run}", "--export", "labels.jsonl"],
            "--export=labels.jsonl: there are no labels yet. Fix: label some answers",
        ),
        (["{run}", "--port", "many"], "argument --port: invalid int value: 'many'. Try rlhf-flow label --help."),
        (["{run}", "--port", "70000"], "host 127.0.0.1, port 70000 cannot be listened on"),
    ],
)
def test_a_mistake_is_one_paragraph_and_status_2(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert main(["label", *(one.format(run=tmp_path) for one in arguments)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert told.format(run=tmp_path) in captured.err


def test_a_port_that_is_taken_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["label", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "Try port 0" in capsys.readouterr().err


def test_it_serves_a_run_that_has_asked_nothing_yet_with_a_token_until_a_signal(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with labelling(tmp_path, "--token-env", "PEOPLE", PEOPLE=TOKEN) as server:
        with client(server) as stranger:
            assert stranger.post("/state", json={"annotator": "Ann"}).status_code == 401
        with client(server, Authorization=f"Bearer {TOKEN}") as known:
            assert known.post("/state", json={"annotator": "Ann"}).json()["question"] is None
            ask_people(tmp_path / "labels", questions(1))
            assert known.post("/state", json={"annotator": "Ann"}).json()["question"]["key"] == questions(1)[0].key
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0


# -- a run ------------------------------------------------------------------------------------------------------------


def briefer(messages: tuple[Message, ...], first: str, second: str, meta: Mapping[str, object]) -> float:
    """What the annotator below thinks, as a judge of its own."""
    one, other = len(to_html(first)), len(to_html(second))
    return 0.5 if one == other else float(one < other)


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_flow", "run", *arguments],
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def label(server: Server, enough: Callable[[], bool]) -> None:
    """Be an annotator for whom less is more, until it is enough; every label is sent twice, as after a lost answer."""
    end = time.monotonic() + WAIT
    with client(server, **{"X-Session": "Ann's"}) as page:  # one session, whatever restarts: the name is hers
        while not enough():
            assert time.monotonic() < end, "there was not enough to label"
            shown = page.post("/state", json={"annotator": "Ann"}).json()["question"]
            if shown is None:
                time.sleep(0.1)
                continue
            left, right = len(shown["left"]), len(shown["right"])
            choice = "tie" if left == right else "left" if left < right else "right"
            said = {"id": shown["key"][:16], "question": shown["key"], "annotator": "Ann", "choice": choice}
            for _ in range(2):
                assert page.post("/label", json=said).status_code == 200


def progress(run: Path) -> Progress:
    """Of Ann."""
    annotations = Annotations(run / "labels")
    try:
        return annotations.progress("Ann")
    finally:
        annotations.close()


def published(run: Path) -> list[str]:
    paths = sorted(run.glob("rounds/*/record.json"))
    return [json.loads(path.read_text())["policy"] for path in paths]


@pytest.mark.slow
def test_a_run_and_its_server_that_are_killed_go_on_with_nothing_lost_and_nothing_asked_twice(tmp_path: Path) -> None:
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    common: dict[str, object] = {
        "rounds": 2,
        "sampler.draws.0.n": 2,
        "checkpoint.prompts_per_commit": 4,
        "scorer@evaluate.scorer": "rule",
        "evaluate.scorer.function": "tests.support.tiny.shorter",
    }
    plain = tiny.overrides(model, asked, tmp_path / "judged", **common, scorer="comparison")
    assert main(["run", *plain, "scorer.function=tests.cli.test_label.briefer"]) == 0

    run, log = tmp_path / "people", tmp_path / "log.txt"
    arguments = tiny.overrides(model, asked, run, **common, scorer="human", **{"scorer.poll": 0.05})
    with running(arguments, log) as first:
        until(lambda: progress(run).asked > 0, first, log)
        with labelling(run) as server:
            label(server, lambda: progress(run).mine >= 2)
            server.kill()
        with labelling(run, port=server.port) as server:
            label(server, lambda: progress(run).mine >= 6)  # four pairs in a piece, so the second one is open
            first.kill()
            first.wait()
            assert len(published(run)) == 1, "it was killed in its first round"
            with running(arguments, log) as second:
                label(server, lambda: second.poll() is not None)
                assert second.returncode == 0, log.read_text()[-3000:]
    assert published(run) == published(tmp_path / "judged"), "the same policies as where nothing was killed"
    with sqlite3.connect(run / "labels" / FILE) as file:
        written = file.execute("SELECT count(*) FROM labels").fetchone()[0]
    assert written == progress(run).asked == progress(run).mine
    assert "To label: rlhf-flow label" in log.read_text()


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT
    while not holds():
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)
