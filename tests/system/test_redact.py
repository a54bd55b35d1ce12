"""No secret is written or shown, and the same run with another key is the same run."""

from __future__ import annotations

import pytest

from rlhf_flow.config import compose as config
from rlhf_flow.config.identity import identity
from rlhf_flow.system.redact import check, redact, redacted

SECRET = "s3cr3t-0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@judge.example/v1",
        f"https://{SECRET}@judge.example/v1",
        f"s3://id:{SECRET}@bucket/x",
        f"http://h/v1?api-version=2024-10-21&api_key={SECRET}",
        f"http://h/v1?key={SECRET}#x",
        f"GET http://h/v1?access_token={SECRET}&x=1 failed",
        f"Authorization: Bearer {SECRET}",
        f"rlhf-flow run scorer.request.api_key={SECRET} rounds=2",
        f'{{"x-api-key": "{SECRET}", "n": 1}}',
        f"{{'password': '{SECRET}'}}",
        f"scorer:\n  request:\n    apiKey: {SECRET}\n    n: 1",
        f"the endpoint said: no such key hf_{SECRET.replace('-', '')}",
        f"sk-proj-{SECRET}",
    ],
)
def test_a_text_is_shown_without_the_secret(text: str) -> None:
    assert SECRET not in redacted(text) and SECRET.replace("-", "") not in redacted(text)
    assert "[secret]" in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "scorer.max_tokens=16 scorer.endpoint.api_key_env=JUDGE_KEY scorer.token_env=null",
        "http://127.0.0.1:8000/v1?api-version=2024-10-21",
        "git@github.com and ssh://git@github.com/x",
        "prompts.path=s3://bucket/prompts.jsonl seed=3",
        "Fix: export JUDGE_KEY=..., and 'scorer.request.api_key=${oc.env:JUDGE_KEY}', or token=none.",
        "scorer.request.api_key: a secret must not stand in the configuration.",
        "token: none\ntoken_env: null\n",
        "a risk-adjusted-return of 0.3, key 5, tokens: 17",
        "stop_token=<|im_end|> prompt_cache_key=abcdefghijkl",
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_what_a_variable_holds_is_shown_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_GATEWAY_PASSWORD", SECRET)
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert redacted(f"refused {SECRET}, abc") == "refused [secret:MY_GATEWAY_PASSWORD], abc"
    assert redact({"header": f"X {SECRET}", "n": 3}) == {"header": "X [secret:MY_GATEWAY_PASSWORD]", "n": 3}


def test_a_password_in_an_address_of_a_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@proxy:3128")
    assert redacted(f"the proxy said: {SECRET}") == "the proxy said: [secret:HTTPS_PROXY]"


def test_a_part_of_a_configuration_is_written_without_the_secrets_in_it() -> None:
    written = redact(
        {"request": {"headers": {"Authorization": SECRET, "X-Title": "mine"}, "pin": 1}, "password": ["a", {"b": "c"}]}
    )
    assert written == {
        "request": {"headers": {"Authorization": "[secret]", "X-Title": "mine"}, "pin": 1},
        "password": ["[secret]", {"b": "[secret]"}],
    }


@pytest.mark.parametrize(
    ("key", "value", "way"),
    [
        ("scorer.endpoint.base_url", f"https://h/v1?api_key={SECRET}", "scorer.endpoint.api_key_env=JUDGE_KEY."),
        ("evaluate.scorer.base.urls.0", f"http://x:{SECRET}@h", "evaluate.scorer.base.token_env=JUDGE_KEY."),
        ("scorer.request.api_key", SECRET, "'scorer.request.api_key=${oc.env:JUDGE_KEY}'."),
        ("scorer.request.pin.password", 12345678, "'scorer.request.pin.password=${oc.env:JUDGE_KEY}'."),
        ("scorer.request.headers.Authorization", f"Bearer {SECRET}", "Authorization=${oc.env:JUDGE_KEY}'."),
        ("scorer.request.extra.0", f"Bearer {SECRET}", "scorer.request.extra.0=${oc.env:JUDGE_KEY}'."),
        ("prompts.path", f"s3://id:{SECRET}@bucket", "'prompts.path=${oc.env:JUDGE_KEY}'."),
        ("observe.wandb.project", "hf_abcdefghijklmnopqrstuvwx", "'observe.wandb.project=${oc.env:JUDGE_KEY}'."),
    ],
)
def test_a_secret_that_stands_in_the_configuration_is_refused_with_the_way_out(
    key: str, value: object, way: str
) -> None:
    with pytest.raises(ValueError) as raised:
        check({key: value})
    told = str(raised.value)
    assert told.startswith(f"{key}: a secret must not stand in the configuration") and told.endswith(way)
    assert SECRET not in told and str(value) not in told


JUDGE = ("model.path=m", "prompts.path=p.jsonl", "scorer=judge", "scorer.model=m")


@pytest.mark.slow
def test_a_secret_may_come_from_a_variable_and_another_key_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's name is written; neither the file nor the identity nor what is cached depends on the key."""
    found = []
    for value in (SECRET, f"another-{SECRET}"):
        monkeypatch.setenv("GATEWAY_PASSWORD", value)
        made = config.compose(*JUDGE, "+scorer.request.api_key=${oc.env:GATEWAY_PASSWORD}")
        assert made.scorer.request == {"api_key": value}
        found.append((config.as_yaml(made), identity(made), config.flat(made), made.scorer.fingerprint()))
    assert found[0] == found[1]
    assert SECRET not in str(found) and "[secret:GATEWAY_PASSWORD]" in found[0][0]
    monkeypatch.delenv("GATEWAY_PASSWORD")
    assert config.from_yaml(found[0][0]).scorer.request == {"api_key": "[secret:GATEWAY_PASSWORD]"}


def test_a_configuration_with_a_secret_in_it_is_not_built() -> None:
    with pytest.raises(ValueError, match=r"^scorer\.request\.api_key: a secret must not stand"):
        config.compose(*JUDGE, f"+scorer.request.api_key={SECRET}")
