"""A reward model that vLLM serves says what the same checkpoint says in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.scorer.models.vllm_pooling import Pooled
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import Checkpoint, rollouts
from tests.support.served import Pooling, pooling, scores_of, vllm

pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

ASKED = rollouts(["a cat", "", "a dog and a cat", "a cat"], ["why", "x" * 70, "日本語", "no"])
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(reward_path: str) -> Iterator[Pooling]:
    with pooling(scores_of(reward_path)) as made:
        yield made


def scored(spec: Pooled | RewardModel, asked: Rollouts = ASKED) -> Scored:
    judge = spec.open(Place())
    try:
        return judge.score(asked)
    finally:
        judge.close()


def same(got: Scored, expected: Scored) -> None:
    assert np.ptp(expected.utility) > 0.1
    np.testing.assert_allclose(got.utility, expected.utility, atol=1e-5)
    np.testing.assert_allclose(got.wins, expected.wins, atol=1e-5)
    assert got.utility[0, 0] == got.utility[0, 3], "equal conversations tie exactly"
    assert dict(got.counts) == dict(expected.counts)


# -- vLLM itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def served_path(checkpoint: Checkpoint) -> str:
    """A reward model with one head of 32: vLLM has no smaller ones on a processor."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path = checkpoint(pad=0)
    config = AutoConfig.from_pretrained(path)
    config.update({"hidden_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return path


@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_vllm_scores_as_the_reward_model_in_this_process(served_path: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    with vllm(served_path, tmp_path / "log", "--runner", "pooling", "--max-model-len", "128") as served:
        for fields in ({"max_tokens": 128}, {"max_tokens": 40}):
            expected = scored(RewardModel(served_path, **fields))
            same(scored(Pooled(served_path, [served.url], request_size=3, **fields)), expected)
        with pytest.raises(ValueError, match=r"answered 400.*128.*read 512 tokens \(--max-model-len\)"):
            Pooled(served_path, [served.url]).check()
        judge = Pooled(served_path, [served.url], max_tokens=128, retries=0).open(Place())
        served.kill()
        with pytest.raises(ConnectionError, match=f"{served.url} failed with ConnectError"):
            judge.score(ASKED)
        judge.close()


# -- what speaks as vLLM does -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 3, 64])
def test_it_scores_as_the_reward_model_whatever_the_pieces(reward_path: str, server: Pooling, piece: int) -> None:
    same(scored(Pooled(reward_path, [f"{server.url}/"], request_size=piece)), scored(RewardModel(reward_path)))
    sizes = [len(asked["input"]) for asked in server.asked[2:]]  # behind the two of the check
    assert sum(sizes) == 7 and max(sizes) <= piece


def test_what_is_cut_is_cut_alike(reward_path: str, server: Pooling) -> None:
    same(
        scored(Pooled(reward_path, [server.url], max_tokens=40)),
        scored(RewardModel(reward_path, max_tokens=40)),
    )


def test_raw_scores_of_tokens_are_asked_for_and_nothing_is_added_to_them(reward_path: str, server: Pooling) -> None:
    scored(Pooled(reward_path, [server.url]), rollouts(["a cat"]))
    last = server.asked[-1]
    assert (last["use_activation"], last["add_special_tokens"]) == (False, False)
    assert all(isinstance(token, int) for token in last["input"][0]) and last["input"][0][0] == 1


def test_another_server_does_what_one_fails_to_do(reward_path: str, server: Pooling) -> None:
    with pooling(scores_of(reward_path)) as other:
        judge = Pooled(reward_path, [server.url, other.url], request_size=2, concurrency=1, retries=0).open(Place())
        server.instead += [(500, b"out of memory")] * 9
        same(judge.score(ASKED), scored(RewardModel(reward_path)))
        assert len(server.instead) == 8, "who failed is asked last"
        judge.close()


@pytest.mark.parametrize(
    "instead",
    [(503, b"loading"), (200, b"<html>"), (200, b'{"data": []}'), (200, b'{"data": [{"index": 0, "probs": ["x"]}]}')],
    ids=["503", "no JSON", "too few", "no number"],
)
def test_a_server_that_recovers_is_asked_again(reward_path: str, server: Pooling, instead: tuple[int, bytes]) -> None:
    judge = Pooled(reward_path, [server.url], retries=1).open(Place())
    server.instead.append(instead)
    same(judge.score(ASKED), scored(RewardModel(reward_path)))
    judge.close()


def test_where_nobody_answers_the_server_and_what_it_said_is_named(reward_path: str, server: Pooling) -> None:
    judge = Pooled(reward_path, [server.url], retries=0).open(Place())
    server.instead.append((500, b"EngineDeadError"))
    with pytest.raises(ConnectionError, match=f"{server.url} answered 500: EngineDeadError.* Fix: restart one"):
        judge.score(ASKED)
    judge.close()


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        ((400, b"This model's maximum context length is 128 tokens"), r"answered 400.*read 512 tokens"),
        ((401, b"Unauthorized"), r"answered 401: Unauthorized Fix: set scorer\.token_env"),
        ((404, b"Not Found"), r"answered 404.*--runner pooling"),
        ((200, b'{"data": [{"index": 0, "probs": [0.5, 0.5]}]}'), r"must serve a reward model.* it gives 2\."),
        ((503, b"loading"), r"must be servers that are ready, and .* answered 503: loading"),
    ],
    ids=["400", "401", "404", "two labels", "503"],
)
def test_a_server_that_cannot_score_is_told_before_the_run(
    reward_path: str, server: Pooling, instead: tuple[int, bytes], told: str
) -> None:
    server.instead.append(instead)
    with pytest.raises(ValueError, match=f"{server.url} .*{told}|{told}"):
        Pooled(reward_path, [server.url]).check()
    assert not server.instead


def test_a_server_that_only_squashes_its_scores_is_refused(reward_path: str, server: Pooling) -> None:
    server.squashes = True
    with pytest.raises(ValueError, match=r"always gives sigma\(score\)\. Fix: use a newer vLLM"):
        Pooled(reward_path, [server.url]).check()


def test_a_server_that_is_not_there_is_told_before_the_run(reward_path: str) -> None:
    with pytest.raises(ValueError, match=r"and http://127\.0\.0\.1:1 failed with ConnectError"):
        Pooled(reward_path, ["http://127.0.0.1:1"]).check()


def test_the_checkpoint_says_what_it_is(reward_path: str, checkpoint: Checkpoint, server: Pooling) -> None:
    assert Pooled(reward_path, [server.url]).fingerprint() == RewardModel(reward_path).fingerprint()
    with pytest.raises(ValueError, match=r"num_labels=1 .* has 2"):
        Pooled(checkpoint(labels=2), [server.url]).check()
    assert not server.asked


def test_the_token_is_sent_and_never_shown(reward_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE", raising=False)
    assert "JUDGE" not in os.environ
    spec = Pooled(reward_path, ["http://127.0.0.1:1"], token_env="JUDGE")
    with pytest.raises(ValueError, match=r"scorer\.token_env must name .* JUDGE is not set"):
        spec.check()
    monkeypatch.setenv("JUDGE", TOKEN)
    with pytest.raises(ValueError) as raised:
        spec.check()
    assert TOKEN not in f"{raised.value!r} {spec!r} {raised.value.__cause__!r}"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"urls": []}, r"scorer\.urls must be a list of one server or more, got \[\]"),
        ({"urls": ["127.0.0.1:8000"]}, r"scorer\.urls\.0 must be the address of a server"),
        ({"timeout_seconds": 0.0}, r"scorer\.timeout_seconds must be > 0, got 0\.0"),
        ({"retries": -1}, r"scorer\.retries must be >= 0, got -1"),
        ({"request_size": 0}, r"scorer\.request_size must be >= 1, got 0"),
        ({"concurrency": 0}, r"scorer\.concurrency must be >= 1, got 0"),
        ({"format": "xml"}, r"scorer\.format must be one of chat, plain, got 'xml'"),
    ],
    ids=str,
)
def test_values_that_make_no_judge_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pooled(**{"path": "here", "urls": ["http://127.0.0.1:8000"], **values})
