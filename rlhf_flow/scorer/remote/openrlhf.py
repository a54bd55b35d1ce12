"""A remote reward model with OpenRLHF's protocol.

POST {"query": [...], "prompts": [...], "labels": [...]} is answered by {"rewards": [...]}, one per query. A query is
the rendered prompt followed by the response, a prompt is the rendered prompt, and a label is the gold answer. Servers
for the protocol's first version, which had `query` only, ignore the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.scorer.chunking import in_pieces
from rlhf_flow.scorer.pairwise import bradley_terry, by_answer, prompts_and_responses
from rlhf_flow.scorer.remote.servers import Failed, Servers, answered, sent
from rlhf_flow.system.errors import reason
from rlhf_flow.tokenization.chat_template import ChatTemplate, load_tokenizer
from rlhf_flow.types import Prompt, Response, Rollouts, Scored

if TYPE_CHECKING:
    import httpx
    from transformers import PreTrainedTokenizerBase

KEYS = ("rewards", "reward", "scores")  # of the answer; the first present one is read


class OpenRLHFJudge:
    """Open connections to the servers."""

    def __init__(
        self, servers: Servers, client: httpx.Client, tokenizer: PreTrainedTokenizerBase | None, request_size: int
    ) -> None:
        self._servers = servers
        self._client = client
        self._tokenizer = tokenizer
        self._request_size = request_size

    def score(self, rollouts: Rollouts) -> Scored:
        """Send chunks of prompts, `concurrency` at a time; null or NaN is an abstention.

        Raises ValueError if a server refuses a request, ConnectionError if no server answers.
        """
        return in_pieces(self._ask, rollouts, self._request_size)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, chunks: Sequence[Rollouts]) -> list[Scored]:
        return self._servers.each([partial(self._post, chunk) for chunk in chunks])

    def _post(self, chunk: Rollouts, url: str) -> Scored:
        pairs = prompts_and_responses(chunk)
        rewards = self._rewards(pairs, url) if pairs else []
        utility = by_answer(chunk, rewards)  # [B, N]
        abstained = int(np.isnan(utility).sum())
        counts = {
            "judge/queries": len(pairs),
            "judge/asked": len(pairs),
            "judge/verdicts": len(pairs) - abstained,
            "judge/abstained": abstained,
        }
        wins = bradley_terry(utility)
        diagonal = np.arange(wins.shape[1])
        wins[:, diagonal, diagonal] = 0.5
        return Scored(chunk, utility=utility, wins=wins, counts=counts)

    def _rewards(self, pairs: Sequence[tuple[Prompt, Response]], url: str) -> list[float]:
        prompts = [rendered(prompt, self._tokenizer) for prompt, _ in pairs]
        texts = [text + response.text for text, (_, response) in zip(prompts, pairs, strict=True)]
        body = {"query": texts, "prompts": prompts, "labels": [prompt.answer for prompt, _ in pairs]}
        answer = sent(self._client, url, json.dumps(body).encode())
        if answer.status_code != 200:
            raise ValueError(
                f"{url} {answered(answer)} Fix: give the whole address, such as http://host:5000/get_reward."
            )
        try:
            return read(json.loads(answer.content), len(pairs))
        except ValueError as error:
            raise Failed(f"gave an answer without rewards: {error}") from error


def rendered(prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """The prompt as text, generation prompt included; without a tokenizer its messages with blank lines between."""
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    if tokenizer is None:
        return "\n\n".join(message["content"] for message in messages) + "\n\n"
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def read(answer: object, number: int) -> list[float]:
    """The rewards in an answer: numbers, lists of one number, or null. Raises ValueError if there are not `number`."""
    if isinstance(answer, list) and len(answer) == 1:  # some servers wrap it in a list
        answer = answer[0]
    held = next((answer[key] for key in KEYS if key in answer), None) if isinstance(answer, dict) else None
    if not isinstance(held, list) or len(held) != number:
        got = f"{len(held)} of them" if isinstance(held, list) else f"{answer!r}"[:80]
        raise ValueError(f'it must be {{"rewards": [...]}} with one reward for each of {number} queries, got {got}')
    return [_number(one) for one in held]


def _number(reward: object) -> float:
    if isinstance(reward, list) and len(reward) == 1:
        (reward,) = reward
    if reward is None:
        return math.nan
    if isinstance(reward, bool) or not isinstance(reward, int | float) or math.isinf(reward):
        raise ValueError(f"a reward must be a finite number or null, got {reward!r}"[:200])
    return float(reward)


def reached(client: httpx.Client, urls: Sequence[str]) -> None:
    """Raise ValueError if a server does not respond; the protocol has no health check."""
    for url in urls:
        try:
            sent(client, url, seconds=30.0)
        except Failed as error:
            raise ValueError(
                f"scorer.urls must be servers that are up, and {url} {reason(error)}. Fix: start it, or leave it out."
            ) from error


def fingerprint(tokenizer: str | None) -> str:
    """Of the protocol and the template: the server has no fingerprint."""
    return hashlib.sha256(f"openrlhf {tokenizer}".encode()).hexdigest()


def tokenizer_of(path: str | None) -> PreTrainedTokenizerBase | None:
    """Raises ValueError if there is none."""
    return None if path is None else load_tokenizer(path, template=ChatTemplate(), key="scorer.tokenizer")
