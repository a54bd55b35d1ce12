"""What a server refuses before it does anything: foreign names, foreign pages, slow and large requests."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

pytest.importorskip("fastapi")

import uvicorn
from fastapi.testclient import TestClient

from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.scorer.remote.schema import Health
from rlhf_flow.serve.app import application
from rlhf_flow.serve.batching import Overloaded, Queue
from rlhf_flow.serve.bodies import AT_ONCE, Bodies
from rlhf_flow.system.http_guard import names, timed
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts

JSON = {"Content-Type": "application/json"}
SCORE = wire.from_rollouts(rollouts(["a", "b"]))
PAID: list[Rollouts] = []  # what the judge was asked


class Costly:
    """A judge whose every answer costs money."""

    def score(self, asked: Rollouts) -> Scored:
        PAID.append(asked)
        shape = (len(asked.prompts), len(asked.responses[0]))
        return Scored(asked, utility=np.zeros(shape, np.float32), wins=np.full((*shape, shape[1]), 0.5, np.float32))

    def close(self) -> None:
        """Nothing."""


class Straight(Queue):
    """Scores at once, without a thread."""

    def put(self, asked: Rollouts) -> asyncio.Future[Scored]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(Costly().score(asked))
        return done


def app(*, token: str | None = None, seconds: float = 5.0, further: list[str] | None = None):
    queue = Straight(wait=0.0, max_batch=1, max_waiting=9)
    health = Health("costly", "f" * 64, intransitive=False, waiting=0)
    called = names("127.0.0.1", further or [])
    return application(queue, lambda: health, token=token, names=called, max_body=2**20, seconds=seconds)


def post(base: str = "http://127.0.0.1:8000", **headers: str) -> int:
    """The status that a judge without a token answers, and whether it was asked: 200 alone costs money."""
    PAID.clear()
    given = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    status = TestClient(app(), base_url=base).post("/score", content=SCORE, headers=given).status_code
    assert bool(PAID) == (status == 200)
    return status


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_a_server_answers_to_its_own_names(host: str) -> None:
    assert post(Host=host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.", "[::1", "::1", "127.0.0.1@evil.example", "", "0.0.0.0",
     "localhost:8000:1", "[fe80::1]", "a b"],
)  # fmt: skip
def test_a_name_of_another_site_is_refused_and_a_malformed_one_is_no_failure(host: str) -> None:
    """Without this, a page whose name is made to lead to 127.0.0.1 may read and write as its own origin."""
    assert post(Host=host) == 400


def test_further_names_are_told_and_another_port_is_the_same_server() -> None:
    client = TestClient(app(further=["judge.example"]), base_url="http://judge.example:443")
    assert client.get("/health").status_code == 200
    machine = names("0.0.0.0")
    assert socket.gethostname() in machine and "0.0.0.0" not in machine
    assert names("10.1.2.3", ["x"])[-2:] == ["x", "10.1.2.3"] and names("fe80::1")[-1] == "[fe80::1]"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"]
)
def test_what_a_form_can_send_is_refused(kind: str) -> None:
    assert post(Content_Type=kind) == 415


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8000"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_page_of_another_origin_is_refused(headers: dict[str, str], status: int) -> None:
    assert post(**headers) == status


def test_no_page_is_allowed_to_ask_by_a_preflight() -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = TestClient(app(), base_url="http://127.0.0.1").options("/score", headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control")] and answer.status_code == 405


# -- bounds -----------------------------------------------------------------------------------------------------------


@contextmanager
def running(**arguments: float) -> Iterator[int]:
    """The port of a real server, whose requests must come quickly."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app(**arguments), lifespan="off", log_level="error", http=timed(0.2), ws="none", timeout_keep_alive=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def until_closed(line: socket.socket) -> bytes:
    told = b""
    with suppress(ConnectionResetError):  # as of a server that has not read all
        while came := line.recv(65536):
            told += came
    return told


HEAD = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.slow
def test_a_request_that_never_ends_is_cut_off() -> None:
    """Slow heads and slow bodies (slowloris), also behind a request that was answered."""
    length = b"Content-Length: %d\r\n\r\n" % len(SCORE)
    with running(seconds=0.2) as port:
        lines = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(4)]
        silent, head, body, second = lines
        head.sendall(HEAD)
        body.sendall(HEAD + length + SCORE[:10])
        second.sendall(HEAD + length + SCORE)
        assert second.recv(12) == b"HTTP/1.1 200"
        second.sendall(b"P")
        began = time.monotonic()
        assert until_closed(silent) == until_closed(head) == b""
        assert until_closed(body).startswith(b"HTTP/1.1 408")
        assert b"HTTP/1.1" not in until_closed(second)
        assert time.monotonic() - began < 15
        for line in lines:
            line.close()


def test_a_head_without_an_end_takes_no_memory() -> None:
    with running() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(HEAD + b"X: " + b"x" * 2**17)
        assert b"200" not in until_closed(line)


def test_bodies_that_are_held_at_once_are_bounded() -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(100)

    async def scenario() -> None:
        bodies = Bodies(100)
        async with bodies.read(chunks(AT_ONCE)):
            with pytest.raises(Overloaded, match="400 bytes of requests are held already"):
                async with bodies.read(chunks(1)):
                    pass
        async with bodies.read(chunks(1)) as body:
            assert len(body) == 100

    asyncio.run(scenario())
