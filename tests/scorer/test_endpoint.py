from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate

import pytest

from rlhf_flow.scorer.endpoint import Answer, Endpoint, Unanswered
from rlhf_flow.scorer.reading import Reply
from tests.scorer.stub_endpoint import Behaviour, Said, Stub, fails, in_turn, says

pytest.importorskip("openai")

BODY = {"model": "m", "messages": [{"role": "user", "content": "Which?"}], "max_tokens": 4, "top_k": 1}
KEY = "sk-this-is-a-secret"


def send(behaviour: Behaviour | Said, **fields: object) -> Answer:
    """One try at a stub that behaves so."""
    with Stub(in_turn(behaviour) if isinstance(behaviour, Said) else behaviour) as stub:
        return sent(stub.url, **fields)


def sent(url: str, **fields: object) -> Answer:
    async def one() -> Answer:
        async with Endpoint(url, **fields).connect() as line:
            return await line.send(BODY)

    return asyncio.run(one())


def unanswered(behaviour: Behaviour | Said, **fields: object) -> Unanswered:
    with pytest.raises(Unanswered) as raised:
        send(behaviour, **fields)
    return raised.value


def test_an_answer_has_its_first_tokens_and_what_it_took() -> None:
    begins = {"B": -2.0, "A": -0.25}
    assert send(says("A", begins, usage=(40, 2))) == Answer(Reply("A", (("A", -0.25), ("B", -2.0))), 40, 2)
    assert send(says("A", usage=None)) == Answer(Reply("A"), None, None)
    assert send(says(None)).reply == Reply(""), "a refusal has no content"


def test_the_request_is_sent_as_it_is() -> None:
    with Stub(in_turn(says("A"))) as stub:
        sent(stub.url)
        assert stub.requests == [BODY]


def test_the_key_is_the_named_variables_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with Stub(in_turn(says("A"))) as stub:
        sent(stub.url, api_key_env="JUDGE_KEY")
        assert stub.keys == {f"Bearer {KEY}"}
        stub.keys.clear()
        sent(stub.url, api_key_env=None)
        sent(stub.url, api_key_env="NOT_THERE")
        assert stub.keys == {"Bearer none"}


@pytest.mark.parametrize(
    ("said", "charged", "again", "for_all"),
    [
        (fails(500), False, True, False),
        (fails(503), False, True, False),
        (fails(429), False, True, False),
        (fails(504), True, True, False),  # the gateway gave up; what stands behind it may have answered
        (fails(400), False, False, False),
        (fails(401), False, False, True),
        (fails(404), False, False, True),
        (Said("<html>It works!</html>"), True, True, False),
        (Said(says("A").body[:60]), True, True, False),
        (Said('{"choices": []}'), True, True, False),
        (Said('{"choices": "A"}'), True, True, False),
        (Said('{"choices": [{"message": {"content": 3}}]}'), True, True, False),
        (Said('{"choices": [{"message": {"content": "A"}}], "usage": "much"}'), True, True, False),
        (Said("[" * 100_000), True, True, False),
        (Said(says("A").body, cut=True), True, True, False),
        (Said("", hangs=True), True, True, False),
        (Said(says("A").body, drips=True), True, True, False),
    ],
    ids=lambda value: f"{value.status} {value.body[:12]}" if isinstance(value, Said) else None,
)
def test_a_try_without_an_answer_says_whether_it_was_charged(
    said: Said, charged: bool, again: bool, for_all: bool
) -> None:
    failed = unanswered(said, timeout_seconds=0.5 if said.hangs or said.drips else 120)
    assert (failed.charged, failed.again, failed.for_all) == (charged, again, for_all)
    assert ("no answer within 0.5 seconds" in str(failed)) == (said.hangs or said.drips)
    assert len(str(failed)) < 500


def test_where_nobody_answers_nothing_is_charged() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(Unanswered) as raised:
            sent(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (raised.value.charged, raised.value.again, raised.value.for_all) == (False, True, False)


def test_the_wait_that_is_asked_for_is_told() -> None:
    assert unanswered(fails(429, Retry_After="7")).wait_seconds == 7
    assert unanswered(fails(503, Retry_After="0.5")).wait_seconds == 0.5
    in_a_minute = unanswered(fails(429, Retry_After=formatdate(time.time() + 3600, usegmt=True))).wait_seconds
    assert in_a_minute is not None and 3000 < in_a_minute <= 3600
    assert unanswered(fails(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")).wait_seconds == 0
    for nonsense in ("soon", "nan", "inf", ""):
        assert unanswered(fails(429, Retry_After=nonsense)).wait_seconds is None
    assert unanswered(fails(500)).wait_seconds is None


@pytest.mark.parametrize(
    "said",
    [Said('{"error": {"message": "Incorrect API key: $KEY"}}', status=401), Said("not JSON, but $KEY")],
    ids=["status", "body"],
)
def test_an_endpoint_that_repeats_the_key_is_not_quoted(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    failed = unanswered(said, api_key_env="JUDGE_KEY")
    assert "[key]" in str(failed) and KEY not in str(failed)
    assert failed.__cause__ is None and failed.__suppress_context__, "nothing else is printed with it"


def test_a_key_in_a_reply_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    assert send(says("you sent $KEY"), api_key_env="JUDGE_KEY").reply.text == "you sent Bearer [key]"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "localhost:8000"}, "base_url must be http"),
        ({"base_url": "https://me:secret@host/v1"}, "base_url must be http.* without a user or a password"),
        ({"api_key_env": "sk-secret"}, "api_key_env must be the name of an environment variable in capitals, not the"),
        ({"api_key_env": "gsk_secret"}, "api_key_env must be the name of an environment variable in capitals, not the"),
        ({"concurrency": 0}, "concurrency must be >= 1, got 0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be > 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be > 0"),
        ({"retries": -1}, "retries must be >= 0"),
        ({"patience_seconds": 1.0}, "patience_seconds must be >= scorer.endpoint.timeout_seconds"),
        ({"on_failure": "cry"}, "on_failure must be one of stop, abstain, got 'cry'"),
    ],
)
def test_what_is_no_endpoint_is_refused_and_no_secret_shown(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"scorer.endpoint.{said}") as raised:
        Endpoint(**fields)
    assert "secret" not in str(raised.value)


def test_a_paid_service_without_a_key_is_refused_before_any_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match=r"needs a key, and scorer\.endpoint\.api_key_env=JUDGE_KEY"):
        Endpoint(api_key_env="JUDGE_KEY").check()
    Endpoint("http://127.0.0.1:8000/v1", api_key_env="JUDGE_KEY").check()
    monkeypatch.setenv("JUDGE_KEY", KEY)
    Endpoint(api_key_env="JUDGE_KEY").check()


@pytest.mark.parametrize("key", ["sk secret", "sk-secret\nX-Other: 1", "sk-sécret-secret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ValueError, match=r"api_key_env=JUDGE_KEY names a variable whose value is no key") as raised:
        Endpoint("http://127.0.0.1:8000/v1", api_key_env="JUDGE_KEY").check()
    assert "secret" not in str(raised.value)
