"""An OpenAI-compatible endpoint on 127.0.0.1 that answers, fails, hangs or talks rubbish, as a test asks it to."""

from __future__ import annotations

import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Said:
    """What the endpoint sends back."""

    body: str  # $KEY in it becomes what the request was authorised with
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False  # breaks the connection in the middle of the body
    hangs: bool = False  # sends nothing, ever
    drips: bool = False  # sends a byte now and then, and never ends


Behaviour = Callable[[str, int], Said]  # of the question, and how often it was asked before


def says(
    text: str | None,
    logps: Mapping[str, float] | None = None,
    usage: tuple[int, int] | None = (10, 1),
    finish: str = "stop",
) -> Said:
    """A chat completion."""
    tops = [{"token": token, "logprob": logp, "bytes": None} for token, logp in (logps or {}).items()]
    choice: dict[str, object] = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [{"token": text, "logprob": 0.0, "top_logprobs": tops}]} if tops else None,
    }
    completion: dict[str, object] = {"id": "x", "object": "chat.completion", "choices": [choice]}
    if usage is not None:
        completion["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    return Said(json.dumps(completion))


def fails(status: int, **headers: str) -> Said:
    return Said(
        json.dumps({"error": {"message": "no"}}), status, {key.replace("_", "-"): headers[key] for key in headers}
    )


def in_turn(*all_said: Said) -> Behaviour:
    """One after the other to each question; the last one for ever."""
    return lambda question, before: all_said[min(before, len(all_said) - 1)]


class Stub:
    """A server in threads of this process. Its port can be taken away and given back."""

    def __init__(self, behaviour: Behaviour, *, tls: Path | None = None) -> None:
        self.behaviour = behaviour
        self._tls = tls  # certificate and key
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()  # question -> requests
        self.requests: list[dict[str, object]] = []
        self.keys: set[str | None] = set()  # the headers that authorised them
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def total(self) -> int:
        with self._lock:
            return self.asked.total()

    def start(self, port: int = 0) -> None:
        self._server = Server(("127.0.0.1", port), _handler(self))
        if self._tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> int:
        """Refuse connections from now on; returns the port."""
        self._server.shutdown()
        self._server.server_close()
        return self._port

    def __enter__(self) -> Stub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self.stop()

    def answer(self, body: dict[str, object], key: str | None) -> Said:
        messages = body["messages"]
        assert isinstance(messages, Sequence)
        question = messages[0]["content"]
        with self._lock:
            before = self.asked[question]
            self.asked[question] += 1
            self.requests.append(body)
            self.keys.add(key)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        said = self.behaviour(question, before)
        if said.hangs:
            self._closing.wait(60)
        with self._lock:
            self.at_once -= 1
        return said

    def wait(self, seconds: float) -> bool:
        return self._closing.wait(seconds)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested."""


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers["Authorization"]
            stub.paths.append(self.path)
            stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            said = stub.answer(body, key)
            if said.hangs:
                self.close_connection = True
                return
            sent = said.body.replace("$KEY", str(key)).encode()
            self.send_response(said.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if said.drips:
                while not stub.wait(0.1):
                    self.wfile.write(b" ")
            if said.cut:
                self.wfile.write(sent[: len(sent) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    return Handler
