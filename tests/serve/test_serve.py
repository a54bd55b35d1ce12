"""A scorer as a server: what each request is answered, who is scored together, and how the server starts and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.cli.main import main
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.serve.batching import Overloaded, Queue, merged, split
from rlhf_flow.serve.config import ServeConfig, fingerprint
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts
from tests.support.served import TOKEN, WAIT, Served, serving, until
from tests.support.stub_endpoint import Stub, says

pytest.importorskip("fastapi")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


JSON = {"Content-Type": "application/json"}

# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def server(gate: Path) -> Iterator[Served]:
    arguments = ("scorer=rule", "scorer.function=judges.worth", "token_env=JUDGE", "max_body_mib=1", "max_waiting=1")
    with serving(*arguments, folder=gate, JUDGE=TOKEN) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}", **JSON}
    with httpx.Client(base_url=server.url(), headers=headers, timeout=WAIT, trust_env=False) as client:
        yield client


def score(client: httpx.Client, *answers: str) -> httpx.Response:
    return client.post("/score", content=wire.from_rollouts(rollouts(answers)))


def head(length: int) -> bytes:
    """Of a request with a body of so many bytes."""
    told = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}", **JSON, "Content-Length": length}
    lines = ("POST /score HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()))
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def detail(response: httpx.Response) -> str:
    assert TOKEN not in response.text
    return str(response.json()["detail"])


def test_health_says_what_is_served(client: httpx.Client) -> None:
    health = wire.to_health(client.get("/health").content)
    assert (health.scorer, health.intransitive, health.waiting) == ("rule", False, 0)
    assert len(health.fingerprint) == 64


@pytest.mark.parametrize("path", ["/health", "/score"])
@pytest.mark.parametrize("header", [None, "", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ü"])
def test_without_the_token_nothing_is_told(client: httpx.Client, header: str | None, path: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with httpx.Client(base_url=client.base_url, headers=headers, timeout=WAIT, trust_env=False) as stranger:
        response = stranger.get(path) if path == "/health" else stranger.post(path, content=b"{}", headers=JSON)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert detail(response) == "the token is missing or wrong"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/"])
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_malformed_batch_is_answered_with_the_place(client: httpx.Client) -> None:
    payload = json.loads(wire.from_rollouts(rollouts(["a", "b"])))
    payload["prompts"][0]["responses"][1]["text"] = None
    response = client.post("/score", json=payload)
    assert (response.status_code, detail(response)) == (422, "prompts[0].responses[1].text must be a text, got null")


def test_a_body_that_is_too_large_is_refused_while_it_comes(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=WAIT) as announced:
        announced.sendall(head(100 * 2**20) + b" " * 2**21)  # the rest never comes
        assert announced.recv(12) == b"HTTP/1.1 413"
    response = client.post("/score", content=b" " * 2**21)
    assert (response.status_code, detail(response)) == (413, "the body must have at most 1048576 bytes")
    response = client.post("/score", content=iter([b" " * 2**20] * 3))  # in chunks, of no length that is told
    assert response.status_code == 413
    for structure in (b"{}," * 20_000, b"[" * 20_000, b"7," * 100_000):  # small, and large once they are parsed
        response = client.post("/score", content=b"[" + structure + b"7]")
        assert (response.status_code, "max_body_mib allows" in detail(response)) == (413, True)
    assert score(client, "fine").status_code == 200


def test_what_the_scorer_refuses_is_told_in_its_words(client: httpx.Client) -> None:
    response = score(client, "refuse")
    assert response.status_code == 422
    assert "scorer.function=judges.worth must return a float" in detail(response)
    assert "'1/policy/0/q0'" in detail(response)


def test_a_failure_of_the_scorer_has_an_id_and_its_cause_stays_here(client: httpx.Client, server: Served) -> None:
    response = score(client, "break")
    assert response.status_code == 500
    assert "secret" not in response.text and "Traceback" not in response.text
    id = detail(response).rpartition("error ")[2]
    assert id in server.line(f"error {id}")
    server.line("a secret of the server")
    assert score(client, "fine").status_code == 200


def test_whoever_is_one_too_many_is_sent_away_and_whoever_has_gone_is_not_scored(
    client: httpx.Client, gate: Path
) -> None:
    """One is held in the scorer, one waits, the third is one too many; then the one that waits goes."""
    found: list[httpx.Response] = []
    held = threading.Thread(target=lambda: found.append(score(client, "wait")))
    held.start()
    until(gate, "scoring-*")
    with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
        body = wire.from_rollouts(rollouts(["break the server's peace"]))
        gone.sendall(head(len(body)) + body)
        waiting(client, 1)
        response = score(client, "one too many")
        assert (response.status_code, detail(response)) == (503, "1 requests wait already")
        assert response.headers["Retry-After"] == "1"
    waiting(client, 0)
    assert not found, "the scorer is still held"
    (gate / "go").touch()
    held.join()
    assert [response.status_code for response in found] == [200]


def test_a_cap_that_is_reached_is_told_and_what_was_judged_is_still_answered(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    cache, judge = f"scorer.budget.cache={tmp_path / 'cache'}", ("scorer=judge", "scorer.model=m")
    with Stub(lambda question, before: says("A")) as stub:
        reached = (f"scorer.endpoint.base_url={stub.url}", "scorer.endpoint.api_key_env=null")
        budget = ("scorer.budget.account=server", "scorer.budget.max_calls=2", cache)
        with serving(*judge, *reached, *budget, folder=tmp_path) as served:
            client = httpx.Client(base_url=served.url(), headers=JSON, timeout=WAIT, trust_env=False)
            assert [score(client, "a", "b").status_code for _ in range(2)] == [200, 200]
            response = score(client, "a", "another")
            assert response.status_code == 402
            assert "scorer.budget.max_calls=2 is reached: account 'server' has spent 2" in detail(response)
            assert score(client, "b", "a").status_code == 200
            assert stub.total == 2


def waiting(client: httpx.Client, number: int) -> None:
    end = time.monotonic() + WAIT
    while wire.to_health(client.get("/health").content).waiting != number:
        assert time.monotonic() < end
        time.sleep(0.01)


# -- starting and ending ----------------------------------------------------------------------------------------------


def test_a_part_of_one_s_own_is_503_while_it_loads_and_a_signal_ends_it(tmp_path: Path) -> None:
    (tmp_path / "conf" / "scorer").mkdir(parents=True)
    (tmp_path / "conf" / "scorer" / "slow.yaml").write_text("_target_: judges.Slow\nfunction: judges.worth\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ("scorer=slow", "--config-dir", str(tmp_path / "conf"), f"port={port}")
    with serving(*arguments, folder=tmp_path) as served:
        until(tmp_path, "opening-*")
        url = f"http://127.0.0.1:{port}"
        response = listening(url)
        assert (response.status_code, detail(response)) == (503, "the scorer is still loading")
        (tmp_path / "go").touch()
        assert served.line("serving").startswith("serving scorer=judges.Slow (")
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(WAIT) == 0


def listening(url: str) -> httpx.Response:
    end = time.monotonic() + WAIT
    while True:
        try:
            return httpx.get(f"{url}/health", trust_env=False, timeout=WAIT)
        except httpx.ConnectError:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_an_interrupt_ends_it_cleanly(server: Served, client: httpx.Client) -> None:
    assert score(client, "fine").status_code == 200
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(WAIT) == 0


RULE = ("scorer=rule", "scorer.function=tests.support.rules.length")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"host": "0.0.0.0"}, "host=0.0.0.0 can be reached from other machines, so clients must send a token."),
        ({"host": "0.0.0.0", "token": "none"}, "host=0.0.0.0 can be reached from other machines"),
        ({"token": "none", "token_env": "JUDGE"}, "token=none and token_env=JUDGE exclude each other"),
        ({"token": "off"}, "token must be required or none, got 'off'"),
        ({"names": ["http://judge.example"]}, "names must be host names or addresses, without a port"),
        ({"host": "judge.example"}, "host=judge.example can be reached from other machines"),
        ({"port": 70000}, "port must be from 0 (any that is free) to 65535, got 70000"),
        ({"token_env": ""}, "token_env must be the name of an environment variable, got ''"),
        ({"batch_wait_ms": -1.0}, "batch_wait_ms must be >= 0, got -1.0"),
    ],
    ids=str,
)
def test_a_value_that_serves_nobody_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as raised:
        ServeConfig(**values)
    assert told in str(raised.value)
    ServeConfig(host="0.0.0.0", token_env="JUDGE")
    ServeConfig(host="::1", names=["judge.example", "10.0.0.5", "[fe80::1]"])


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("port=0", "Fix: export JUDGE_TOKEN=$(openssl rand -hex 16), token_env=JUDGE_TOKEN here"),
        ("token_env=hf_abcdefghijklmnopqrstuv", "token_env: a secret must not stand"),
        ("token_env=my_secret", "token_env must be the name of an environment variable in capitals"),
        (
            "token_env=NO_SUCH_TOKEN",
            "token_env must name an environment variable that holds a token, and NO_SUCH_TOKEN",
        ),
        ("scorer.function=tests.support.rules.lenght", "scorer.function=tests.support.rules.lenght: 'lenght' is not"),
        ("scorer.functoin=x", "Did you mean scorer.function?"),
        ("rounds=3", "there is no key 'rounds'"),
    ],
)
def test_a_mistake_is_one_paragraph_and_status_2(argument: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *RULE, argument]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert told in captured.err and "hf_abc" not in captured.err


def test_a_judge_with_a_budget_needs_an_account_for_a_server_has_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "scorer=judge", "scorer.model=m"]) == 2
    assert "scorer.budget.account must be given" in capsys.readouterr().err


def test_a_port_that_is_taken_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", *RULE, "token=none", f"port={taken.getsockname()[1]}"]) == 2
    assert "cannot be listened on" in capsys.readouterr().err


def test_the_page_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    page = capsys.readouterr().out
    for key in fields(ServeConfig):
        shown = "null" if key.default is None else f"{key.default:g}" if key.type == "float" else key.default
        assert f"{key.name}={'' if key.name in ('scorer', 'names') else shown}" in page


def test_a_fingerprint_is_that_of_all_that_decides_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    length, right = Rule("tests.support.rules.length"), Rule("tests.support.rules.right")
    assert fingerprint(length) == fingerprint(replace(length))
    assert length.fingerprint() == right.fingerprint(), "one file"
    assert fingerprint(length) != fingerprint(right)
    before = fingerprint(length)
    monkeypatch.setattr(Rule, "fingerprint", lambda self: "another source")
    assert fingerprint(length) != before


# -- who is scored together -------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """A judge by length that remembers what it was asked, and refuses the answer "bad"."""

    measures: Mapping[str, float] = field(default_factory=dict)
    asked: list[Rollouts] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    closed: int = 0

    def score(self, rollouts: Rollouts) -> Scored:
        self.asked.append(rollouts)
        self.threads.add(threading.get_ident())
        if any(y.text == "bad" for group in rollouts.responses for y in group):
            raise ValueError("a bad answer")
        scored = Rule("tests.support.rules.length").open(Place()).score(rollouts)
        return replace(scored, batch_metrics=self.measures)

    def close(self) -> None:
        self.closed += 1
        self.threads.add(threading.get_ident())


def named(name: str, *answers: Sequence[str]) -> Rollouts:
    """Rollouts whose ids begin with `name`."""
    plain = rollouts(*answers)
    groups = tuple(tuple(replace(y, id=f"{name}/{y.id}") for y in group) for group in plain.responses)
    return replace(plain, responses=groups)


def scores(
    judge: Recording, requests: Sequence[Rollouts], *, wait: float = 0.001, max_batch: int = 100, first: bool = True
) -> list[Scored | BaseException]:
    """What becomes of requests that are all there at once; before them, `first` makes the judge known."""

    async def play() -> list[Scored | BaseException]:
        queue = Queue(wait=wait, max_batch=max_batch, max_waiting=100)
        working = asyncio.create_task(queue.work(lambda: judge, lambda: None))
        if first:
            await queue.put(named("first", ["a"]))
            judge.asked.clear()
        found = await asyncio.gather(*map(queue.put, requests), return_exceptions=True)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return found

    return asyncio.run(play())


A, B, C = named("a", ["x", "xy"]), named("b", ["", "x"], ["xyz", "x"]), named("c", ["z", "zz"])


def test_requests_that_fit_are_scored_together_and_split_again() -> None:
    judge, alone = Recording(), Recording()
    found = scores(judge, [A, B, C])
    assert [[p.id for p in asked.prompts] for asked in judge.asked] == [["q0", "q0", "q1", "q0"]]
    for request, scored in zip([A, B, C], found, strict=True):
        assert isinstance(scored, Scored)
        expected = alone.score(request)
        assert scored.rollouts is request
        np.testing.assert_array_equal(scored.utility, expected.utility)
        np.testing.assert_array_equal(scored.wins, expected.wins)
        assert scored.counts == expected.counts
    assert len(judge.threads) == 1 and judge.closed == 1 and threading.get_ident() not in judge.threads


@pytest.mark.parametrize(
    ("requests", "settings", "calls"),
    [
        ([A, C], {"wait": 0.0}, 2),
        ([A, C], {"max_batch": 3}, 2),
        ([A, C], {"max_batch": 4}, 1),
        ([A, C], {"first": False}, 2),  # until it was asked once, a judge may be one that measures
        ([A, named("a", ["other", "words"])], {}, 2),  # the same ids
        ([A, named("d", ["three", "of", "them"]), C], {}, 2),  # another N, and A with C
        ([A, replace(C, round=2)], {}, 2),
        ([rollouts(), rollouts()], {}, 2),
    ],
    ids=["no wait", "too many", "just as many", "unknown", "same ids", "another N", "another round", "empty"],
)
def test_requests_that_do_not_fit_are_scored_apart(
    requests: list[Rollouts], settings: dict[str, float], calls: int
) -> None:
    judge = Recording()
    found = scores(judge, requests, **settings)  # type: ignore[arg-type]
    assert len(judge.asked) == calls
    for request, scored in zip(requests, found, strict=True):
        assert isinstance(scored, Scored)
        assert scored.rollouts is request
        assert scored.utility.tolist() == [[len(y.text) for y in group] for group in request.responses]


def test_a_judge_that_measures_all_answers_together_is_asked_apart() -> None:
    judge = Recording(measures={"gap": 1.0})
    assert len(scores(judge, [A, C])) == len(judge.asked) == 2


def test_only_the_one_at_fault_hears_of_it() -> None:
    found = scores(Recording(), [A, named("bad", ["bad", "x"]), C])
    assert [type(one) for one in found] == [Scored, ValueError, Scored]


def test_the_queue_is_bounded() -> None:
    async def play() -> None:
        queue = Queue(wait=0.0, max_batch=1, max_waiting=2)
        queue.put(A)
        queue.put(C)
        with pytest.raises(Overloaded, match="2 requests wait already"):
            queue.put(B)
        assert len(queue) == 2

    asyncio.run(play())


def test_whoever_does_not_wait_any_more_is_not_scored() -> None:
    judge = Recording()

    async def play() -> None:
        queue = Queue(wait=0.0, max_batch=1, max_waiting=9)
        queue.put(A).cancel()
        last = queue.put(C)
        working = asyncio.create_task(queue.work(lambda: judge, lambda: None))
        await last
        working.cancel()

    asyncio.run(play())
    assert judge.asked == [C]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), count=st.integers(0, 1000))
def test_the_shares_of_a_count_add_up_to_it(sizes: list[int], count: int) -> None:
    several = [named(str(at), *([["x", "y"]] * size)) for at, size in enumerate(sizes)]
    whole = merged(several)
    given = Scored(
        whole,
        utility=np.arange(2 * sum(sizes), dtype=np.float32).reshape(-1, 2),
        wins=np.zeros((sum(sizes), 2, 2), dtype=np.float32),
        pair_flags={"inconsistent": np.arange(4 * sum(sizes)).reshape(-1, 2, 2) % 3 == 0},
        counts={"judge/queries": count},
    )
    parts = split(given, several)
    assert sum(part.counts["judge/queries"] for part in parts) == count
    assert [len(part.utility) for part in parts] == sizes
    np.testing.assert_array_equal(np.concatenate([part.utility for part in parts]), given.utility)
    marks = np.concatenate([part.pair_flags["inconsistent"] for part in parts])
    np.testing.assert_array_equal(marks, given.pair_flags["inconsistent"])
