"""Servers for tests: `rlhf-flow serve` in a process of its own, vLLM in one, and what speaks as vLLM's pooling does."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

WAIT = 300.0  # seconds; on a busy machine a process takes its time
TOKEN = "a-token-that-nobody-may-see"
JUDGES = '''
"""Judges that can be held up: an answer with "wait" in it is judged once the file `go` is there."""
import os, time
from dataclasses import dataclass
from pathlib import Path
from rlhf_flow.scorer.functions.rule import Rule
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
    if not any(argument.startswith("token") for argument in arguments):
        arguments = (*arguments, "token=none")
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


# -- vLLM -------------------------------------------------------------------------------------------------------------

START = 900.0  # seconds until vLLM serves: four processes that import it, on a busy machine
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class VLLM:
    """vLLM's own server in a process of its own, on a processor."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def healthy(self) -> bool:
        try:
            with DIRECT.open(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """With its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def vllm(model: str | Path, log: Path, *arguments: str) -> Iterator[VLLM]:
    """vLLM's server of a checkpoint, in float32, once it is ready.

    By its module: the command `vllm` asks for the version of a distribution of that name, and the build for processors
    has another one.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--block-size", "32", "--kv-cache-memory-bytes", str(64 * 2**20), *arguments]
    own = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    # Without multiprocessing vLLM's worker runs in the engine's process: one process fewer imports vLLM.
    own |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env={**os.environ, **own}, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    server, end = VLLM(process, f"http://127.0.0.1:{port}"), time.monotonic() + START
    try:
        while not server.healthy:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield server
    finally:
        server.kill()


Row = Sequence[int]


@dataclass
class Pooling:
    """What speaks as vLLM's pooling does, and scores by `worth`; a test may let it answer something else first."""

    worth: Callable[[Row], float]
    url: str = ""
    instead: list[tuple[int, bytes]] = field(default_factory=list)  # status and body, one for each request to come
    asked: list[dict[str, Any]] = field(default_factory=list)  # what was answered with scores
    squashes: bool = False  # whatever it is asked: as versions that do not know `use_activation`

    def answer(self, body: bytes) -> tuple[int, bytes]:
        if self.instead:
            return self.instead.pop(0)
        asked = json.loads(body)
        self.asked.append(asked)
        scores = [self.worth(row) for row in asked["input"]]
        if asked["use_activation"] or self.squashes:
            scores = [1 / (1 + math.exp(-score)) for score in scores]
        rows = [{"index": at, "probs": [score], "num_classes": 1} for at, score in enumerate(scores)]
        return 200, json.dumps({"object": "list", "data": rows}).encode()


@contextmanager
def pooling(worth: Callable[[Row], float]) -> Iterator[Pooling]:
    """A server of its own kind, in a thread: `worth` scores one conversation of tokens."""
    made = Pooling(worth)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, told = made.answer(body) if self.path == "/classify" else (404, b"Not Found")
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def scores_of(path: str) -> Callable[[Row], float]:
    """What the reward model in `path` scores, one conversation at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    lock = threading.Lock()

    def worth(row: Row) -> float:
        with lock, torch.inference_mode():
            return float(model(torch.tensor([row])).logits[0, 0])

    return worth
