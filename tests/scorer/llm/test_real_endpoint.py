"""A judge asks vLLM's own server of a tiny language model, and says what that model says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.client import EndpointError
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.judge import Judge
from rlhf_flow.scorer.pairwise import matches
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts
from tests.support import tiny
from tests.support.served import VLLM, WAIT, vllm

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]
pytest.importorskip("vllm")
pytest.importorskip("openai")

TEMPLATE = "{conversation}\n\nA: {first}\nB: {second}\n\nA or B?"
ASKED = rollouts(["a cat", "a dog", "the sky"], ["yes", "no", "yes"])
MANY = rollouts(*([f"answer {b}", "another", "and a third"] for b in range(8)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that replies A or B, how likely each depends on the question.

    Its head is zero but for the two letters: both have what the last hidden states of all questions have in common, so
    that they are the likeliest, and one has more, the other less, of that in which two questions differ.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny.policy(tmp_path_factory.mktemp("judge"), heads=1)  # of 32: vLLM has no smaller ones on a processor
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    one, other = (
        network.model(torch.tensor([rendered(tokenizer, "user: why?", *texts)])).last_hidden_state[0, -1].detach()
        for texts in (("a cat", "a dog"), ("no", "a very long answer"))
    )
    common = (one + other) / 2
    apart = one - other
    apart -= (apart @ common) / (common @ common) * common
    base, change = 8 * common / (common @ common), apart / (apart @ one).abs()
    with torch.no_grad():
        network.lm_head.weight.zero_()
        for letter, row in (("A", base + change), ("B", base - change)):
            network.lm_head.weight[tokenizer.convert_tokens_to_ids(letter)] = row
    network.save_pretrained(folder)
    return folder


def rendered(tokenizer: Any, talk: str, first: str, second: str) -> list[int]:
    """The question as the model reads it."""
    chat = [{"role": "user", "content": TEMPLATE.format(conversation=talk, first=first, second=second)}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    with vllm(model, tmp_path_factory.mktemp("log") / "log", "--served-model-name", "judge") as served:
        yield served


@pytest.fixture
def judge(server: VLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "template.txt").write_text(TEMPLATE)
    endpoint = Endpoint(f"{server.url}/v1", api_key_env=None, concurrency=2, timeout_seconds=60, retries=0)
    budget = Budget(account="run", cache=str(tmp_path / "cache.sqlite"))
    return Judge("judge", template=str(tmp_path / "template.txt"), max_tokens=1, endpoint=endpoint, budget=budget)


def scored(judge: Judge, asked: Rollouts) -> Scored:
    judge.check()
    opened = judge.open(Place())
    try:
        return opened.score(asked)
    finally:
        opened.close()


def by_hand(model: Path, asked: Rollouts) -> dict[tuple[str, str], float]:
    """P(first beats second) of each match, the mean over both orders, by a forward pass of one question at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    letters = tokenizer.convert_tokens_to_ids(["A", "B"])

    def says_a(talk: str, first: str, second: str) -> float:
        with torch.inference_mode():
            logits = network(torch.tensor([rendered(tokenizer, talk, first, second)])).logits[0, -1]
        return float(torch.softmax(logits[letters], dim=0)[0])

    found = {}
    for match in matches(asked):
        talk = f"user: {match.prompt.messages[0].content}"
        forth = says_a(talk, match.first.text, match.second.text)
        back = says_a(talk, match.second.text, match.first.text)
        found[match.first.id, match.second.id] = (forth + 1 - back) / 2
    return found


def test_its_probabilities_are_the_models_over_both_orders_and_a_rerun_asks_nothing(judge: Judge, model: Path) -> None:
    first = scored(judge, ASKED)
    expected = by_hand(model, ASKED)
    place = {one.id: (b, k) for b, group in enumerate(ASKED.responses) for k, one in enumerate(group)}
    got = {pair: first.wins[*place[pair[0]], place[pair[1]][1]] for pair in expected}
    assert np.ptp(list(expected.values())) > 0.01
    for pair, p in expected.items():
        np.testing.assert_allclose(got[pair], p, atol=1e-4)
    assert (first.counts["judge/queries"], first.counts["judge/calls"]) == (4, 8)
    again = scored(judge, ASKED)
    assert (again.counts["judge/queries"], again.counts["judge/calls"], again.counts["judge/cached"]) == (0, 0, 4)
    np.testing.assert_array_equal(again.wins, first.wins)


def test_a_server_that_is_killed_in_the_middle_stops_the_run_or_leaves_pairs_without_a_verdict(
    judge: Judge, server: VLLM
) -> None:
    """The last test of this server."""
    found: list[BaseException] = []

    def score() -> None:
        try:
            scored(judge, MANY)
        except EndpointError as error:
            found.append(error)

    running = threading.Thread(target=score)
    running.start()
    purse = judge.budget.open()
    end = time.monotonic() + WAIT
    while purse.spent.calls - purse.spent.unsettled <= 24:  # of 48: both orders of some pair are answered
        assert time.monotonic() < end and running.is_alive()
        time.sleep(0.001)
    server.kill()
    running.join(WAIT)
    (error,) = found
    assert f"the judge at {server.url}/v1 gave no answer" in str(error)
    assert "The same command resumes" in str(error)

    lenient = replace(judge, endpoint=replace(judge.endpoint, on_failure="abstain"))
    rest = scored(lenient, MANY)
    known = ~np.isnan(rest.wins[:, *np.triu_indices(3, 1)])
    assert 0 < known.sum() < known.size == 24
    assert rest.counts["judge/cached"] == known.sum()
    assert rest.counts["judge/abstained"] == rest.counts["judge/failed"] == 24 - known.sum()
    assert rest.counts["judge/queries"] == 0
    purse.close()
