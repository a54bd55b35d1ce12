from __future__ import annotations

import hashlib
import json
import math
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.scorer.llm import client
from rlhf_flow.scorer.llm.budget import CapReached, Spent
from rlhf_flow.scorer.llm.client import EndpointError
from rlhf_flow.specs import Place
from tests.scorer.conftest import rollouts
from tests.support.judging import CALL, answers, judge, later_wins, opened, scored, spent
from tests.support.stub_endpoint import Said, Stub, fails, in_turn, says

pytest.importorskip("httpx")

KEY = "sk-this-is-a-secret"
SHIPPED = client.FIRST_WAIT_SECONDS


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.1)


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nothing_even_where_the_endpoint_is_gone(tmp_path: Path) -> None:
    asked = rollouts(["a", "b", "c"], ["d", "e", "f"])
    endpoint = {"name": "the lab's judge"}  # its address may change
    first = scored(later_wins, tmp_path, asked, endpoint=endpoint)
    again = opened("http://127.0.0.1:1/v1", tmp_path, account="another", endpoint=endpoint).score(asked)
    np.testing.assert_array_equal(first.wins, again.wins)
    known = {"judge/asked": 6, "judge/verdicts": 6, "judge/cached": 6}
    assert again.counts == {**dict.fromkeys(first.counts, 0), **known}


def test_two_servers_with_one_name_for_their_models_share_no_reply(tmp_path: Path) -> None:
    asked = rollouts(["a", "b"])
    with Stub(later_wins) as one, Stub(in_turn(says("C"))) as other:
        first, second = (opened(stub.url, tmp_path).score(asked).wins[0, 0, 1] for stub in (one, other))
        assert (first, second) == (0, 0.5) and other.total == 2
        again = opened(f"{one.url}/", tmp_path).score(asked)
        assert again.wins[0, 0, 1] == 0 and one.total == 2


def test_what_an_earlier_version_kept_is_not_paid_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It kept replies by the request alone: the first endpoint that asks for one takes it over, and says so."""
    asked = rollouts(["a", "b"])
    with Stub(later_wins) as stub:
        spec = judge(stub.url, tmp_path)
        held = spec.budget.open()
        for first, second in (("a", "b"), ("b", "a")):
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": f"user: question 0?##{first}##{second}"}],
                "temperature": 0.0,
                "max_tokens": 16,
                "logprobs": True,
                "top_logprobs": 20,
            }
            key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            reply = json.dumps({"text": "A" if first == "a" else "B", "begins": []})
            held.settle(held.reserve(tokens=1, cost=0), {key: reply}, tokens=1, cost=0)
        held.close()
        for _ in range(2):
            assert opened(stub.url, tmp_path).score(asked).wins[0, 0, 1] == 1
        assert stub.total == 0
        assert capsys.readouterr().out.count("2 judgements were kept by an earlier version") == 1
        opened(stub.url, tmp_path, endpoint={"name": "another"}).score(asked)
        assert stub.total == 2, "what one endpoint took over is not another's"


FAULTY = {
    "empty": says(""),
    "nothing": says(None),
    "cut": says("<think>Let me", finish="length"),
    "garbage": says("\ufffd\ufffd!!!!"),
    "no choices": Said('{"choices": []}'),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_reply_is_paid_and_not_kept(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = rollouts(["a", "b", "c"])
    faulty = FAULTY[kind]

    def once(question: str, before: int) -> Said:
        return faulty if before == 0 and "a" in answers(question) else later_wins(question, before)

    with Stub(once) as stub:
        first = opened(stub.url, tmp_path).score(asked)
        assert first.counts["judge/abstained"] == 2 and first.counts["judge/verdicts"] == 1
        cause = {"cut": "cut", "garbage": "unclear"}.get(kind, "empty")
        assert first.counts[f"judge/{cause}"] == 2
        assert capsys.readouterr().out.count("warning: a reply of the judge") == 1, "the first one is told"
        again = opened(stub.url, tmp_path).score(asked)
        assert again.counts["judge/verdicts"] == 3 and stub.total == 6 + 4
    assert spent(tmp_path).calls == 10 and spent(tmp_path).unsettled == 0


def test_a_thinking_judge_that_spends_its_tokens_is_told_which_key_gives_it_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = scored(in_turn(says(None, usage=(10, 16), finish="length")), tmp_path, rollouts(["a", "b"]))
    assert judged.counts["judge/cut"] == judged.counts["judge/asked"] == 1
    assert "was cut at 16 tokens before its verdict. Fix: raise scorer.max_tokens=16" in capsys.readouterr().out


@pytest.mark.slow
def test_an_endpoint_that_asks_for_no_wait_is_not_asked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", SHIPPED)
    times: list[float] = []

    def refusing(question: str, before: int) -> Said:
        times.append(time.monotonic())
        return later_wins(question, before) if before else fails(429, Retry_After="0")

    scored(refusing, tmp_path, rollouts(["a", "b"]), endpoint={"concurrency": 1})
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize(("structured", "refused"), [("true", False), ("auto", False), ("auto", True), (None, False)])
def test_a_structured_reply_is_asked_for_and_done_without_if_it_is_refused(
    structured: str | None, refused: bool, tmp_path: Path
) -> None:
    def picky(question: str, before: int) -> Said:
        if refused and "response_format" in stub.requests[-1]:
            return Said('{"error": {"message": "response_format is not supported"}}', status=400)
        return says(json.dumps({"verdict": "A" if later_wins(question, before).body.count('"A"') else "B"}))

    with Stub(picky) as stub:
        fields = {"structured": structured}
        judged = opened(stub.url, tmp_path, fields=fields, endpoint={"concurrency": 1}).score(rollouts(["a", "b", "c"]))
        assert judged.counts["judge/verdicts"] == 3
        with_schema = [body for body in stub.requests if "response_format" in body]
        assert len(with_schema) == (0 if structured is None else 1 if refused else 6)
        for body in with_schema:
            assert body["response_format"]["json_schema"]["schema"]["properties"]["verdict"]["enum"] == ["A", "B", "C"]
    assert spent(tmp_path) == Spent(calls=6, tokens=6 * CALL), "what was refused is not charged"


def test_a_schema_that_must_be_kept_and_is_refused_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="status 400"):
        scored(in_turn(fails(400)), tmp_path, rollouts(["a", "b"]), fields={"structured": "true"})


@pytest.mark.parametrize("thinking", [True, False])
def test_a_judge_is_told_whether_to_think_and_has_room_for_it(thinking: bool, tmp_path: Path) -> None:
    with Stub(in_turn(says("<think>[[A]]</think>B"))) as stub:
        spec = judge(stub.url, tmp_path, fields={"thinking": thinking})
        judged = spec.open(Place()).score(rollouts(["a", "b"]))
        assert stub.requests[0]["chat_template_kwargs"] == {"enable_thinking": thinking}
        assert stub.requests[0]["max_tokens"] == spec.reply_tokens == 16 + (8192 if thinking else 0)
    assert judged.counts["judge/inconsistent"] == 1, "B in both orders"


def test_a_key_that_the_server_refuses_stops_the_run_even_if_it_may_abstain(tmp_path: Path) -> None:
    said = Said('{"error": {"message": "Unsupported parameter: max_tokens"}}', status=400)
    endpoint = {"on_failure": "abstain"}
    with pytest.raises(EndpointError, match=r"scorer\.request=\{max_tokens: null, max_completion_tokens: 16\}"):
        scored(in_turn(said), tmp_path, rollouts(["a", "b"]), endpoint=endpoint)


def test_the_cache_is_its_owners_alone(tmp_path: Path) -> None:
    scored(later_wins, tmp_path, rollouts(["a", "b"]))
    assert {file.stat().st_mode & 0o077 for file in tmp_path.glob("cache.sqlite*")} == {0}


@pytest.mark.slow
def test_sixteen_workers_stop_at_the_cap_and_a_higher_cap_goes_on(tmp_path: Path) -> None:
    asked = rollouts([chr(97 + k) for k in range(10)])  # 45 matches, 90 calls
    with Stub(later_wins) as stub:
        with pytest.raises(CapReached, match=r"scorer\.budget\.max_calls=40 is reached: account 'run' has spent 40"):
            opened(stub.url, tmp_path, max_calls=40).score(asked)
        assert stub.total == 40 and stub.most_at_once <= 16
        assert spent(tmp_path) == Spent(calls=40, tokens=40 * CALL)
        judged = opened(stub.url, tmp_path, max_calls=90).score(asked)
        assert stub.total == 90 and set(stub.asked.values()) == {1}
        assert judged.counts["judge/calls"] == 50
        assert judged.counts["judge/queries"] + judged.counts["judge/cached"] == 45


def test_caps_of_tokens_and_money_hold_at_the_most_that_a_call_can_take(tmp_path: Path) -> None:
    asked = rollouts(["a", "b", "c", "d"])  # 12 calls, of at most 256 + 180 + 16 tokens
    prices = {"price_per_million_in": 2.0, "price_per_million_out": 10.0}
    with Stub(lambda question, before: says("A", usage=(200, 16))) as stub:
        with pytest.raises(CapReached, match=r"scorer\.budget\.max_tokens=1000"):
            opened(stub.url, tmp_path, max_tokens=1000).score(asked)
        assert 0 < spent(tmp_path).tokens <= 1000
        with pytest.raises(CapReached, match=r"scorer\.budget\.max_cost=0\.003"):
            opened(stub.url, tmp_path, max_cost=0.003, account="rich", **prices).score(asked)
        judged = opened(stub.url, tmp_path, account="rich", **prices).score(asked)
        assert stub.total == 12
        assert judged.counts["judge/cost_micro"] == judged.counts["judge/calls"] * (2 * 200 + 10 * 16)


def test_where_the_endpoint_does_not_say_what_it_took_the_most_is_counted(tmp_path: Path) -> None:
    with Stub(lambda question, before: says("A", usage=None)) as stub:
        judged = opened(stub.url, tmp_path).score(rollouts(["a", "日本語"]))
    sent = sum(len(json.dumps(body, ensure_ascii=False).encode()) + 16 for body in stub.requests)
    assert sent <= judged.counts["judge/tokens"] == spent(tmp_path).tokens < sent + 2 * 300


@pytest.mark.slow
def test_no_answer_that_was_kept_is_paid_again_after_a_kill(tmp_path: Path) -> None:
    asked = rollouts([chr(97 + k) for k in range(12)])  # 132 calls
    work = "import pickle, sys; spec, place, asked = pickle.load(sys.stdin.buffer); spec.open(place).score(asked)"
    enough, killed = threading.Event(), threading.Event()

    def stalls(question: str, before: int) -> Said:
        if stub.total > 50:
            enough.set()
            killed.wait(120)
        return later_wins(question, before)

    with Stub(stalls) as stub:
        spec = judge(stub.url, tmp_path, endpoint={"concurrency": 4})
        child = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE)
        assert child.stdin is not None
        child.stdin.write(pickle.dumps((spec, Place(), asked)))
        child.stdin.close()
        assert enough.wait(120)
        child.kill()
        assert child.wait(20) == -signal.SIGKILL
        killed.set()
        left = spent(tmp_path)
        assert 51 <= left.calls <= 54 and 1 <= left.unsettled <= 4
        judged = spec.open(Place()).score(asked)
        assert sum(times - 1 for times in stub.asked.values()) <= left.unsettled
        assert judged.counts["judge/calls"] == 132 - (left.calls - left.unsettled)
    np.testing.assert_array_equal(judged.wins[0], np.tri(12, k=-1) + np.eye(12) / 2)


def test_what_another_run_has_asked_meanwhile_is_not_asked_again(tmp_path: Path) -> None:
    asked = rollouts(["a", "b", "c"])

    def busy(question: str, before: int) -> Said:
        if stub.total == 1:  # while the first one waits for its first answer, another one asks everything
            opened(stub.url, tmp_path, account="another").score(asked)
        return later_wins(question, before)

    with Stub(busy) as stub:
        judged = opened(stub.url, tmp_path, endpoint={"concurrency": 1}).score(asked)
        assert stub.total == 7
    assert judged.counts["judge/calls"] == spent(tmp_path).calls == 1
    np.testing.assert_array_equal(judged.wins[0], np.tri(3, k=-1) + np.eye(3) / 2)


def test_what_a_killed_run_left_open_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge("http://127.0.0.1:1", tmp_path).budget.open().reserve(tokens=1, cost=0)
    opened("http://127.0.0.1:1", tmp_path).close()
    assert "warning: 1 calls of account 'run' were sent and their answers never kept" in capsys.readouterr().out


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_misbehaving_endpoint_is_asked_again_until_it_answers(tmp_path: Path) -> None:
    good, half = says("A"), says("A").body[:40]
    bad = {
        ("a", "b"): fails(500),
        ("b", "a"): fails(429, Retry_After="1"),
        ("a", "c"): Said("<html>"),
        ("c", "a"): Said(half),
        ("b", "c"): Said(good.body, cut=True),
        ("c", "b"): fails(504),
    }
    times: dict[str, list[float]] = {}

    def troubled(question: str, before: int) -> Said:
        times.setdefault(question, []).append(time.monotonic())
        return later_wins(question, before) if before else bad[answers(question)]

    judged = scored(troubled, tmp_path, rollouts(["a", "b", "c"]))
    np.testing.assert_array_equal(judged.wins[0], [[0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5]])
    asked, again = next(both for question, both in times.items() if answers(question) == ("b", "a"))
    assert again - asked >= 1, "as long as it asked for"
    assert judged.counts["judge/calls"] == 6 + 4, "the refusals cost nothing, the lost answers may have"
    assert spent(tmp_path).unsettled == 4
    assert judged.counts["judge/failed"] == judged.counts["judge/abstained"] == 0


@pytest.mark.slow
def test_a_question_that_hangs_is_asked_again(tmp_path: Path) -> None:
    def sleepy(question: str, before: int) -> Said:
        return later_wins(question, before) if before else Said("", hangs=True)

    with Stub(sleepy) as stub:
        judged = opened(stub.url, tmp_path, endpoint={"timeout_seconds": 1.0}).score(rollouts(["a", "b"]))
    assert judged.wins[0, 1, 0] == 1
    assert judged.counts["judge/calls"] == spent(tmp_path).calls >= 4
    assert spent(tmp_path).unsettled == spent(tmp_path).calls - 2


@pytest.mark.slow
def test_an_endpoint_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    with Stub(later_wins) as stub:
        port = stub.stop()
        timer = threading.Timer(0.5, stub.start, [port])
        timer.start()
        judged = opened(stub.url, tmp_path).score(rollouts(["a", "b"]))
        timer.join()
    assert judged.wins[0, 1, 0] == 1
    assert spent(tmp_path) == Spent(calls=2, tokens=2 * CALL), "connections that were refused cost nothing"


def test_a_question_without_an_answer_stops_the_run_or_is_an_abstention(tmp_path: Path) -> None:
    def too_long(question: str, before: int) -> Said:
        return fails(400) if "b" in answers(question) else later_wins(question, before)

    asked = rollouts(["a", "b", "c"])
    with Stub(too_long) as stub:
        with pytest.raises(EndpointError, match=r"status 400.*on_failure=abstain.*not paid for again"):
            opened(stub.url, tmp_path).score(asked)
        judged = opened(stub.url, tmp_path, endpoint={"on_failure": "abstain"}).score(asked)
        assert max(stub.asked.values()) <= 2, "no use in trying again"
    assert math.isnan(judged.wins[0, 0, 1]) and math.isnan(judged.wins[0, 1, 2]) and judged.wins[0, 2, 0] == 1
    assert judged.counts["judge/failed"] == judged.counts["judge/abstained"] == 2
    assert spent(tmp_path) == Spent(calls=2, tokens=2 * CALL)


def test_no_other_question_is_sent_once_the_run_is_to_stop(tmp_path: Path) -> None:
    with Stub(in_turn(fails(400))) as stub:
        with pytest.raises(EndpointError):
            opened(stub.url, tmp_path, endpoint={"concurrency": 2}).score(rollouts(list("abcde")))
        assert stub.total <= 2


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 6])
def test_an_endpoint_that_hangs_ends_the_run(tmp_path: Path, retries: int) -> None:
    endpoint = {"timeout_seconds": 0.3, "patience_seconds": 1.0, "on_failure": "abstain", "retries": retries}
    with pytest.raises(EndpointError, match=r"It has been silent .*patience_seconds=1 allows no more"):
        scored(
            in_turn(Said("", hangs=True)), tmp_path, rollouts(list("abcdefgh")), endpoint={**endpoint, "concurrency": 2}
        )
    assert 1 <= spent(tmp_path).unsettled <= 2 * (1 + 1.0 / 0.3), "and most of the 56 questions are not tried"


def test_a_wait_beyond_patience_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"status 429.*next try would be in \d{4}"):
        scored(in_turn(fails(429, Retry_After="3600")), tmp_path, rollouts(["a", "b"]))


def test_a_wrong_key_stops_the_run_and_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    told = Said(json.dumps({"error": {"message": "Incorrect API key provided: $KEY"}}), status=401)
    with Stub(in_turn(told)) as stub:
        endpoint = {"api_key_env": "JUDGE_KEY", "on_failure": "abstain"}
        with pytest.raises(EndpointError, match=r"status 401.*scorer\.endpoint\.api_key_env=JUDGE_KEY") as raised:
            opened(stub.url, tmp_path, endpoint=endpoint).score(rollouts(["a", "b"]))
        stub.behaviour = in_turn(says("A, said $KEY"))
        spec = judge(stub.url, tmp_path, endpoint=endpoint)
        spec.open(Place()).score(rollouts(["a", "b"]))
        assert stub.keys == {f"Bearer {KEY}"}
    assert KEY not in "".join(map(str, [raised.getrepr(style="long"), spec, spec.fingerprint(), *capfd.readouterr()]))
    assert not [file for file in tmp_path.iterdir() if KEY.encode() in file.read_bytes()]
