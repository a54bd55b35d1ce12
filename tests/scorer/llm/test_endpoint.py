from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from rlhf_flow.scorer.llm.completion import Answer
from rlhf_flow.scorer.llm.endpoint import Endpoint, RequestFailed
from rlhf_flow.scorer.llm.parse_reply import Reply
from tests.support.stub_endpoint import Behaviour, Said, Stub, fails, in_turn, says

pytest.importorskip("httpx")

BODY = {"model": "m", "messages": [{"role": "user", "content": "Which?"}], "max_tokens": 4, "top_k": 1}
KEY = "sk-this-is-a-secret"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = [subprocess.run([*command, *names, "-keyout", "-", "-out", "-"], capture_output=True, check=True).stdout]
    file.write_bytes(made[0])
    return file


def send(behaviour: Behaviour | Said, **fields: object) -> Answer:
    """One try at a stub that behaves so."""
    with Stub(in_turn(behaviour) if isinstance(behaviour, Said) else behaviour) as stub:
        return sent(stub.url, **fields)


def sent(url: str, *, body: dict[str, object] = BODY, **fields: object) -> Answer:
    async def one() -> Answer:
        async with Endpoint(url, **fields).connect() as line:
            return await line.send(body)

    return asyncio.run(one())


def unanswered(behaviour: Behaviour | Said, **fields: object) -> RequestFailed:
    with pytest.raises(RequestFailed) as raised:
        send(behaviour, **fields)
    return raised.value


def test_an_answer_has_its_first_tokens_and_what_it_took() -> None:
    begins = {"B": -2.0, "A": -0.25}
    assert send(says("A", begins, usage=(40, 2))) == Answer(Reply("A", (("A", -0.25), ("B", -2.0))), 40, 2)
    assert send(says("A", usage=None)) == Answer(Reply("A"), None, None)
    assert send(says(None)).reply == Reply(""), "a refusal has no content"


COMPLETIONS = {
    "null": ({"content": None}, ""),
    "missing": ({"role": "assistant"}, ""),
    "refusal": ({"content": None, "refusal": "I cannot."}, ""),
    "parts": ({"content": [{"type": "text", "text": "Ver"}, {"type": "text", "text": "dict: A"}]}, "Verdict: A"),
    "parts of thoughts": (
        {"content": [{"type": "thinking", "thinking": "B"}, {"type": "text", "text": "A"}, "?", None]},
        "A",
    ),
    "number": ({"content": 3}, ""),
    "thoughts apart": ({"content": "A", "reasoning_content": "B", "reasoning": "B"}, "A"),
    "no message": (None, ""),
}


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_content_in_whatever_shape_is_text_or_an_answer_that_says_nothing(kind: str) -> None:
    message, text = COMPLETIONS[kind]
    body = {"choices": [{"message": message}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    assert send(Said(json.dumps(body))) == Answer(Reply(text), 9, 2)


def test_a_completion_without_choices_or_usage_says_nothing() -> None:
    assert send(Said('{"choices": []}')) == Answer(Reply(""), None, None)
    assert send(Said('{"choices": [{"message": {"content": "A"}}], "usage": "much"}')) == Answer(Reply("A"), None, None)


def test_a_reply_that_was_cut_says_so() -> None:
    body = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    assert send(Said(json.dumps(body))).reply == Reply("", cut=True)


def with_logprobs(text: str, *tokens: object) -> Reply:
    choice = {"message": {"content": text}, "logprobs": {"content": list(tokens)}}
    return send(Said(json.dumps({"choices": [choice]}))).reply


def token(text: str, **tops: float | None) -> dict[str, object]:
    return {"token": text, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops.items()]}


def test_entries_without_a_number_are_left_out() -> None:
    assert with_logprobs("A", token("A", A=-0.1, B=None)).begins == (("A", -0.1),)
    assert with_logprobs("A", {"token": "A", "top_logprobs": None}).begins == ()
    assert with_logprobs("A", {"token": "A", "top_logprobs": [None, {"token": "A", "logprob": -1}]}).begins == (
        ("A", -1.0),
    )
    assert with_logprobs("A", None, token("A", A=-0.1)).begins == (("A", -0.1),)


@pytest.mark.parametrize(
    "tokens",
    [
        ["B", " is", " wrong", ".", "A"],
        ["A", " is", " wrong", ".", "B", "</think>", "A"],
        ["<think>", "B", "</think>", "A"],
        ["<|channel|>", "analysis", "<|message|>", "B", "A"],
    ],
    ids=" ".join,
)
def test_log_probs_of_a_hidden_thought_are_not_the_verdicts(tokens: list[str]) -> None:
    """The visible reply is A; the first token belongs to what the server hid."""
    assert with_logprobs("A", *(token(one, A=-2.0, B=-0.1) for one in tokens)).begins == ()


@pytest.mark.parametrize("end", ["", "<|im_end|>", "</s>", "\n"])
def test_log_probs_of_the_visible_reply_are_read_whatever_ends_it(end: str) -> None:
    assert with_logprobs("A", token("▁A", A=-0.1, B=-2.0), token(end)).begins == (("A", -0.1), ("B", -2.0))


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("max_tokens", r"scorer\.request=\{max_tokens: null, max_completion_tokens: 4\}"),
        ("temperature", r"scorer\.request=\{temperature: null\}"),
        ("logprobs", r"scorer\.logprobs=false"),
    ],
)
def test_a_server_that_refuses_a_key_of_the_request_is_answered_with_the_override(key: str, remedy: str) -> None:
    said = Said(json.dumps({"error": {"message": f"Unsupported parameter: '{key}'", "code": None}}), status=400)
    with Stub(in_turn(said)) as stub, pytest.raises(RequestFailed, match=remedy) as raised:
        sent(stub.url, body={**BODY, "temperature": 0, "logprobs": True})
    assert raised.value.for_all and not raised.value.charged


def test_a_query_is_sent_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with Stub(in_turn(says("A"))) as stub:
        sent(stub.url, query={"api-version": "2024-10-21"}, api_key_env="JUDGE_KEY")
        assert stub.paths == ["/v1/chat/completions?api-version=2024-10-21"]
        assert stub.headers[0]["api-key"] == KEY


def test_nothing_of_the_environment_is_sent_but_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORG_ID", "PROJECT_ID", "CUSTOM_HEADERS", "ADMIN_KEY", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "x-own: secret" if name == "CUSTOM_HEADERS" else "secret")
    with Stub(in_turn(says("A"))) as stub:
        sent(stub.url)
        assert "secret" not in str(stub.headers)


def test_a_server_whose_certificate_is_not_trusted_is_told_at_once(tls: Path) -> None:
    with Stub(in_turn(says("A")), tls=tls) as stub, pytest.raises(RequestFailed, match="SSL_CERT_FILE") as raised:
        sent(stub.url.replace("http:", "https:"))
    assert raised.value.for_all and not raised.value.charged


def test_a_certificate_that_is_named_is_trusted(tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls))
    with Stub(in_turn(says("A")), tls=tls) as stub:
        assert sent(stub.url.replace("http:", "https:")).reply == Reply("A")


def test_https_to_a_plain_server_is_told_at_once() -> None:
    with Stub(in_turn(says("A"))) as stub, pytest.raises(RequestFailed, match=r"it speaks no TLS.*http://") as raised:
        sent(stub.url.replace("http:", "https:"))
    assert raised.value.for_all


def test_a_name_that_does_not_exist_is_told_at_once() -> None:
    with pytest.raises(RequestFailed, match="its name cannot be resolved") as raised:
        sent("http://no-such-host.invalid/v1")
    assert raised.value.for_all


def test_a_socks_proxy_without_its_package_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setattr("rlhf_flow.system.optional_deps.find_spec", lambda name: None if name == "socksio" else name)
    with pytest.raises(ValueError, match="a SOCKS proxy of the environment needs the package socksio"):
        Endpoint("http://127.0.0.1:1").check()


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
        assert stub.keys == {None}


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
        (Said('{"choices": "A"}'), True, True, False),
        (Said('{"id": "x"}'), True, True, False),
        (fails(529), False, True, False),
        (Said('{"error": {"code": 429, "message": "slow down"}}'), False, True, False),
        (Said('{"error": {"code": "rate_limit_exceeded"}}'), False, True, False),
        (Said('{"error": {"code": 401, "message": "no key"}}'), False, False, True),
        (Said('{"error": {"type": "overloaded_error"}}'), False, True, False),
        (Said('{"error": {"message": "boom"}}'), False, True, False),
        (Said('{"error": "boom"}'), False, True, False),
        (Said('{"object": "error", "code": 400, "message": "too long"}'), False, False, False),
        (Said('{"choices": [{"error": {"code": 503}}]}'), False, True, False),
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
        with pytest.raises(RequestFailed) as raised:
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
        (
            {"base_url": "https://host/openai?api-version=1"},
            r"base_url must end before its question mark.*query=\{api-",
        ),
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
