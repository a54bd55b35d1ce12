"""Reward servers written for OpenRLHF: `{"query": [...]}` in, `{"rewards": [...]}` out."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_flow.scorer.remote.remote import Remote
from rlhf_flow.specs import Place
from tests.scorer.conftest import rollouts

pytest.importorskip("httpx")


@dataclass
class Server:
    url: str = ""
    asked: list[dict[str, list[str]]] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[dict[str, list[str]]], object]) -> Iterator[Server]:
    """On loopback; `answer` gives the body of the response, or a status."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            said = answer(body)
            self.send_response(said if isinstance(said, int) else 200)
            self.end_headers()
            self.wfile.write(b"no" if isinstance(said, int) else json.dumps(said).encode())

        def do_GET(self) -> None:
            self.send_response(405)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/get_reward"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def remote(server: Server, **fields: object) -> Remote:
    spec = Remote([server.url], protocol="openrlhf", **{"retries": 0, **fields})
    spec.check()
    return spec


def lengths(body: dict[str, list[str]]) -> list[int]:
    return [len(query) - len(prompt) for query, prompt in zip(body["query"], body["prompts"], strict=True)]


ANSWERS: dict[str, Callable[[list[int]], object]] = {
    "rewards": lambda rewards: {"rewards": rewards},
    "rewards, scores and logs": lambda rewards: {"rewards": rewards, "scores": [0] * len(rewards), "extra_logs": {}},
    "each in a list": lambda rewards: {"rewards": [[reward] for reward in rewards]},
    "in a list": lambda rewards: [{"rewards": rewards}],
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_rewards_are_read_as_such_servers_write_them(kind: str) -> None:
    with serving(lambda body: ANSWERS[kind](lengths(body))) as server:
        scored = remote(server, request_size=1).open(Place()).score(rollouts(["a", "bbb"], ["cc", "cc"], gold="4"))
        assert len(server.asked) == 2, "in pieces of prompts"
    np.testing.assert_array_equal(scored.utility, [[1, 3], [2, 2]])
    assert scored.wins[0, 1, 0] == pytest.approx(1 / (1 + np.exp(-2))) and scored.wins[1, 0, 1] == 0.5
    assert scored.counts["judge/queries"] == scored.counts["judge/verdicts"] == 4


def test_a_query_is_the_rendered_prompt_and_the_answer(reward_path: str) -> None:
    with serving(lambda body: {"rewards": lengths(body)}) as server:
        remote(server).open(Place()).score(rollouts(["yes"], gold="4"))
        remote(server, tokenizer=reward_path).open(Place()).score(rollouts(["yes"]))
    plain, chat = server.asked
    assert plain == {"query": ["question 0?\n\nyes"], "prompts": ["question 0?\n\n"], "labels": ["4"]}
    assert chat["query"] == [f"{chat['prompts'][0]}yes"] and "question 0?" in chat["prompts"][0]
    assert chat["prompts"] != plain["prompts"] and chat["labels"] == [None]


def test_null_is_an_abstention() -> None:
    with serving(lambda body: {"rewards": [None, 2.0]}) as server:
        scored = remote(server).open(Place()).score(rollouts(["a", "b"]))
    assert np.isnan(scored.utility[0, 0]) and np.isnan(scored.wins[0, 0, 1]) and scored.wins[0, 0, 0] == 0.5
    assert scored.counts["judge/abstained"] == 1


@pytest.mark.parametrize(
    "said",
    [{"rewards": [1.0]}, {"rewards": "1"}, {"reward": None}, [], {"rewards": [1, "2"]}, {"rewards": [1, True]}, 500],
    ids=str,
)
def test_what_is_no_rewards_names_the_server_and_what_it_said(said: object) -> None:
    with serving(lambda body: said) as server, pytest.raises(ConnectionError, match=server.url):
        remote(server).open(Place()).score(rollouts(["a", "b"]))


def test_a_wrong_address_says_what_an_address_is() -> None:
    with serving(lambda body: 404) as server, pytest.raises(ValueError, match=r"answered 404.*/get_reward"):
        remote(server).open(Place()).score(rollouts(["a"]))


def test_a_server_that_is_down_is_refused_before_the_run() -> None:
    with serving(lambda body: {}) as server:
        pass
    with pytest.raises(ValueError, match=r"scorer\.urls must be servers that are up"):
        remote(server)
    with pytest.raises(ValueError, match=r"scorer\.protocol must be one of rlhf-flow, openrlhf, or null, got 'grpc'"):
        Remote([server.url], protocol="grpc")


def test_it_gives_numbers_and_says_so() -> None:
    with serving(lambda body: {}) as server:
        assert remote(server).intransitive is False
        assert remote(server).fingerprint() != Remote([server.url], protocol="openrlhf", tokenizer="x").fingerprint()
