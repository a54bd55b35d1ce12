"""A scorer over HTTP is the scorer itself, bit for bit, as long as one of its servers lives."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.llm.budget import CapReached
from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.scorer.remote.remote import Remote
from rlhf_flow.scorer.remote.schema import Health, Reply
from rlhf_flow.specs import Place, ScorerSpec
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts
from tests.support.served import JUDGES, TOKEN, Served, serving, until

pytest.importorskip("fastapi")
pytestmark = pytest.mark.slow

ASKED = rollouts(
    ["", "yes", "no, never"], ["日本語 🦊", "e\u0301", "a"], ["a", "a", "b"], ["x", "\x00", "y"], ["1", "2", "3"]
)
RULE = ("scorer=rule", "scorer.function=judges.worth")
COMPARISON = ("scorer=comparison", "scorer.function=tests.support.comparisons.longer")
MEASURED = (*COMPARISON, "scorer.measure=tests.support.comparisons.count")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE", TOKEN)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@dataclass(frozen=True)
class Three:
    """Two servers of one rule, and one of a comparison that measures and asks for a token. They start side by side."""

    first: Served
    first_url: str
    second_url: str
    compared_url: str


@pytest.fixture(scope="module")
def three(gate: Path) -> Iterator[Three]:
    with (
        serving(*RULE, "max_body_mib=1", folder=gate) as first,
        serving(*RULE, "batch_wait_ms=20", folder=gate) as second,
        serving(*MEASURED, "token_env=JUDGE", folder=gate, JUDGE=TOKEN) as compared,
    ):
        yield Three(first, first.url(), second.url(), compared.url())


@pytest.fixture
def judges(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module `judges` of the servers, in this process too."""
    (gate / "judges.py").write_text(JUDGES)
    monkeypatch.setenv("GATE", str(gate))
    monkeypatch.syspath_prepend(str(gate))


def same(got: Scored, expected: Scored) -> None:
    assert got.rollouts is expected.rollouts
    for name in ("utility", "wins"):
        ours, theirs = vars(got)[name], vars(expected)[name]
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
    assert got.aspects.keys() == expected.aspects.keys()
    for name in got.aspects:
        assert got.aspects[name].tobytes() == expected.aspects[name].tobytes()
    assert (dict(got.counts), dict(got.batch_metrics)) == (dict(expected.counts), dict(expected.batch_metrics))


def scored(spec: ScorerSpec, asked: Rollouts) -> Scored:
    judge = spec.open(Place())
    try:
        return judge.score(asked)
    finally:
        judge.close()


# -- real servers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 64])
@pytest.mark.parametrize("asked", [ASKED, rollouts(), rollouts(["only one"])], ids=["5x3", "none", "1x1"])
def test_it_scores_as_the_rule_itself_does(three: Three, judges: None, asked: Rollouts, piece: int) -> None:
    remote = Remote(urls=[f"{three.first_url}/", three.second_url], request_size=piece, retries=0)
    same(scored(remote, asked), scored(Rule("judges.worth"), asked))


@pytest.mark.parametrize("piece", [2, 64])
def test_it_scores_and_measures_as_the_comparison_itself_does(three: Three, piece: int) -> None:
    itself = Comparison("tests.support.comparisons.longer", measure="tests.support.comparisons.count")
    remote = Remote(urls=[three.compared_url], token_env="JUDGE", request_size=piece, retries=0)
    same(scored(remote, ASKED), scored(itself, ASKED))


def test_its_servers_say_what_it_is(three: Three) -> None:
    rule = Remote(urls=[three.first_url, three.second_url])
    compared = Remote(urls=[three.compared_url], token_env="JUDGE")
    rule.check()
    assert (rule.intransitive, compared.intransitive) == (False, True)
    assert len(rule.fingerprint()) == 64 and rule.fingerprint() != compared.fingerprint()
    assert not rule.loads_model


def test_servers_of_different_scorers_are_refused(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"{three.first_url} serves rule .*{three.compared_url} comparison "):
        Remote(urls=[three.first_url, three.compared_url], token_env="JUDGE").check()


@pytest.mark.parametrize("token", [None, "another-token"])
def test_a_wrong_token_is_told_before_the_run_and_never_shown(
    three: Three, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("JUDGE", token)
    remote = Remote(urls=[three.compared_url], token_env=None if token is None else "JUDGE")
    with pytest.raises(ValueError, match=f"{three.compared_url} answered 401.* Fix: set scorer.token_env to") as raised:
        remote.check()
    assert token is None or token not in f"{raised.value!r} {remote!r} {raised.value.__cause__!r}"


def test_what_the_rule_refuses_is_told_once_in_its_words(three: Three) -> None:
    remote = Remote(urls=[three.first_url, three.second_url])
    with pytest.raises(ValueError, match=r"422.*judges\.worth must return a float.* Every server would"):
        scored(remote, rollouts(["fine", "refuse"]))


def test_a_request_that_is_too_large_says_how_to_make_it_smaller(three: Three) -> None:
    with pytest.raises(
        ValueError, match=r"answered 413.*at most 1048576 bytes.* lower scorer\.request_size, or raise.*max_body_mib"
    ):
        scored(Remote(urls=[three.first_url], retries=0), rollouts(["x" * 2**20]))


def test_a_server_that_dies_in_the_middle_is_replaced_by_another(three: Three, gate: Path, judges: None) -> None:
    """The last test of these servers: one is killed while it is scoring."""
    asked = rollouts(*[[f"wait {b}", "x"] for b in range(6)])
    remote = Remote(urls=[three.first_url, three.second_url], request_size=2, concurrency=2, retries=1)
    judge = remote.open(Place())
    with ThreadPoolExecutor(1) as background:
        found = background.submit(judge.score, asked)
        until(gate, f"scoring-{three.first.process.pid}")
        three.first.process.kill()
        (gate / "go").touch()
        same(found.result(), scored(Rule("judges.worth"), asked))
    same(judge.score(ASKED), scored(Rule("judges.worth"), ASKED))
    judge.close()
    with pytest.raises(ValueError, match=f"{three.first_url} failed with ConnectError"):
        remote.check()


# -- servers that misbehave -------------------------------------------------------------------------------------------

HEALTH = Health("stub", "abc", False, 0)
Answer = Callable[[bytes], "tuple[int, bytes] | None"]  # None: nothing, until the test is over


@dataclass
class Stub:
    """A server that answers as a test says, and counts what it is asked."""

    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)


@contextmanager
def stub(answer: Answer, health: bytes = wire.from_health(HEALTH)) -> Iterator[Stub]:
    made = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, health)

        def do_POST(self) -> None:
            made.asked.append(str(self.headers["Authorization"]))
            said = answer(self.rfile.read(int(self.headers["Content-Length"])))
            if said is None:
                made.over.wait()
            else:
                self.answer(*said)

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def good(body: bytes, fingerprint: str = HEALTH.fingerprint) -> tuple[int, bytes]:
    """The worth of an answer is its length."""
    judged = Rule("tests.support.rules.length").open(Place()).score(wire.to_rollouts(body))
    return 200, wire.from_reply(Reply(fingerprint, judged))


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: (500, b'{"detail": "the scorer failed"}'),
        lambda body: (503, b"loading"),
        lambda body: (200, b"<html>"),
        lambda body: (200, wire.from_reply(Reply("abc", scored(Rule("tests.support.rules.length"), rollouts(["a"]))))),
        lambda body: None,
    ],
    ids=["500", "503", "no JSON", "another shape", "no answer"],
)
def test_another_server_does_what_one_fails_to_do(answer: Answer) -> None:
    with stub(answer) as bad, stub(good) as other:
        remote = Remote(urls=[bad.url, other.url], retries=0, timeout_seconds=2.0, request_size=2, concurrency=1)
        got = scored(remote, ASKED)
    np.testing.assert_array_equal(got.utility, scored(Rule("tests.support.rules.length"), ASKED).utility)
    assert (len(bad.asked), len(other.asked)) == (1, 3), "who failed is asked last"


def test_a_server_that_recovers_is_asked_again() -> None:
    said = iter([(503, b"loading"), (500, b"out of memory")])
    with stub(lambda body: next(said, None) or good(body)) as once:
        got = scored(Remote(urls=[once.url], retries=2), ASKED)
    assert len(once.asked) == 3
    assert got.counts["judge/queries"] == 15


def test_where_nobody_answers_each_server_and_what_it_said_is_named() -> None:
    with stub(lambda body: (500, b"error 1234")) as broken, stub(lambda body: None) as silent:
        remote = Remote(urls=[broken.url, silent.url], retries=1, timeout_seconds=0.5, token_env="JUDGE")
        with pytest.raises(ConnectionError) as raised:
            scored(remote, ASKED)
        told = str(raised.value)
        assert f"{broken.url} answered 500: error 1234" in told
        assert f"{silent.url} failed with ReadTimeout" in told
        assert "raise scorer.timeout_seconds or scorer.retries" in told
        assert (len(broken.asked), len(silent.asked)) == (2, 2)
        assert {*broken.asked, *silent.asked} == {f"Bearer {TOKEN}"}
        assert TOKEN not in f"{told} {remote!r} {raised.value.__cause__!r} {raised.value.__context__!r}"


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 301])
def test_a_request_that_is_wrong_is_not_sent_again(status: int) -> None:
    with stub(lambda body: (status, b"no")) as strict, stub(good) as other:
        with pytest.raises(ValueError, match=f"{strict.url} answered {status}: no "):
            scored(Remote(urls=[strict.url, other.url], concurrency=1), ASKED)
        assert (len(strict.asked), len(other.asked)) == (1, 0)


def test_a_cap_behind_a_server_stops_the_run_as_the_judges_own_does_and_no_other_server_is_asked() -> None:
    cap = b'{"detail": "scorer.budget.max_calls=2 is reached"}'
    with stub(lambda body: (402, cap)) as spent, stub(good) as other:
        with pytest.raises(CapReached, match=f"{spent.url} answered 402: .*max_calls=2 is reached.* key on the server"):
            scored(Remote(urls=[spent.url, other.url], concurrency=1), ASKED)
        assert (len(spent.asked), len(other.asked)) == (1, 0)


def test_marks_come_back_in_their_places() -> None:
    def contradicts(body: bytes) -> tuple[int, bytes]:
        asked = wire.to_rollouts(body)
        zeros = np.zeros((1, 2), dtype=np.float32)
        pair = np.array([[[False, asked.prompts[0].id == "q1"]] * 2])
        halves = np.full((1, 2, 2), 0.5, dtype=np.float32)
        return 200, wire.from_reply(Reply("abc", Scored(asked, zeros, halves, pair_flags={"inconsistent": pair})))

    with stub(contradicts) as server:
        got = scored(Remote(urls=[server.url], request_size=1), rollouts(["x", "y"], ["x", "y"]))
    assert got.pair_flags["inconsistent"].dtype == bool
    assert got.pair_flags["inconsistent"].tolist() == [[[False, False]] * 2, [[False, True]] * 2]


def test_a_server_that_became_another_scorer_is_refused() -> None:
    told = r" serves another scorer \(xyz\) than .* \(abc\)"
    with stub(lambda body: good(body, "xyz")) as changed, pytest.raises(ValueError, match=changed.url + told):
        scored(Remote(urls=[changed.url]), ASKED)


def test_pieces_with_different_aspects_are_refused() -> None:
    named = iter("ab")

    def moody(body: bytes) -> tuple[int, bytes]:
        asked = wire.to_rollouts(body)
        zeros = np.zeros((1, 1), dtype=np.float32)
        return 200, wire.from_reply(Reply("abc", Scored(asked, zeros, zeros[:, None], aspects={next(named): zeros})))

    with stub(moody) as server, pytest.raises(ValueError, match="must name the same aspects for every response"):
        scored(Remote(urls=[server.url], request_size=1, concurrency=1), rollouts(["x"], ["y"]))


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (b"hello", "the body must be JSON"),
        (wire.from_health(HEALTH).replace(b'"version": 1', b'"version": 2'), "use the same release of rlhf-flow"),
    ],
)
def test_what_is_no_server_of_ours_is_told_before_the_run(health: bytes, told: str) -> None:
    with stub(good, health=health) as other, pytest.raises(ValueError, match=f"{other.url} .*{told}"):
        Remote(urls=[other.url]).check()


def test_prompts_with_different_numbers_of_answers_are_not_even_sent() -> None:
    with stub(good) as server, pytest.raises(ValueError, match="'q1' has 1 responses, others in its round have 2"):
        scored(Remote(urls=[server.url]), rollouts(["a", "b"], ["c"]))
    assert not server.asked


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"urls": []}, r"scorer\.urls must be a list of one server or more, got \[\]"),
        ({"urls": ["127.0.0.1:8000"]}, r"scorer\.urls\.0 must be the address of a server, as http://.*'127"),
        ({"urls": ["http://here", "http://there:x"]}, r"scorer\.urls\.1 must be the address"),
        ({"timeout_seconds": 0.0}, r"scorer\.timeout_seconds must be > 0, got 0\.0"),
        ({"retries": -1}, r"scorer\.retries must be >= 0, got -1"),
        ({"request_size": 0}, r"scorer\.request_size must be >= 1, got 0"),
        ({"concurrency": 0}, r"scorer\.concurrency must be >= 1, got 0"),
        ({"token_env": ""}, r"scorer\.token_env must be the name of an environment variable, got ''"),
    ],
    ids=str,
)
def test_values_that_make_no_judge_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Remote(**{"urls": ["http://127.0.0.1:8000"], **values})


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match=r"scorer\.urls\.0 must hold no name and no password") as raised:
        Remote(urls=["http://me:secret@127.0.0.1:8000"])
    assert "secret" not in str(raised.value)


def test_a_token_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE")
    assert "JUDGE" not in os.environ
    with pytest.raises(ValueError, match=r"scorer\.token_env must name .* JUDGE is not set"):
        Remote(urls=["http://127.0.0.1:1"], token_env="JUDGE").check()
