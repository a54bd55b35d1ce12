"""A reward model behind vLLM servers (`vllm serve CHECKPOINT --runner pooling`).

P(i beats j) = sigma(r_i - r_j), as of scorer=reward_model, with the same scores up to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.models.reader import Reader
from rlhf_flow.scorer.models.reward_model import RewardModel, scored
from rlhf_flow.scorer.remote.servers import Failed, Servers, answered, sent
from rlhf_flow.scorer.token_batches import Tokens
from rlhf_flow.specs import Place
from rlhf_flow.system.errors import reason
from rlhf_flow.tokenization.chat_template import Templated
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    import httpx

ROUTE = "/classify"
ROUNDING = 1e-3  # between two scores of one conversation by one server


@dataclass(frozen=True)
class Pooled(Templated):
    """vLLM batches the conversations; `urls` holds one server per GPU.

    Conversations are rendered by the tokenizer of `path` and sent as tokens: every server must serve the checkpoint in
    `path`, whose weights are hashed, but not loaded. A request that is refused, times out or fails with 5xx is retried
    on the next server; 4xx is not. A score's last bits depend on vLLM's batches: scorer=cached keeps the first score.
    """

    path: str  # local folder, or name on the hub
    urls: list[str]  # http://host:port
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the checkpoint's own code
    format: str = "chat"  # chat: its own template; plain: the texts with blank lines between
    max_tokens: int | None = None  # of prompt and answer; null: the model's context length
    timeout_seconds: float = 300.0  # of one request, queueing included
    retries: int = 6  # rounds through all servers, after the first
    token_env: str | None = None  # environment variable with the servers' token (vllm serve --api-key)
    request_size: int = 64  # conversations per request
    concurrency: int = 4  # requests at a time

    intransitive: ClassVar[bool] = False
    loads_model: ClassVar[bool] = False  # the servers do
    cache_format: ClassVar[str] = "log_odds"

    def __post_init__(self) -> None:
        self._servers()
        self._model()
        check_fields(self, ("request_size", ">= 1", self.request_size >= 1))

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; name and revision of a model on the hub."""
        return self._model().fingerprint()

    def check(self) -> None:
        """Raise ValueError if the checkpoint is no reward model, or a server is not ready."""
        self._model().check()
        self._opened().close()

    def open(self, place: Place) -> PooledJudge:
        """Raises ValueError as `check`. Uses no device of `place`."""
        return self._opened()

    def _opened(self) -> PooledJudge:
        servers, reader = self._servers(), self._model().reader()
        client = servers.client(part="scorer=pooled", instead="scorer=reward_model")
        opened = PooledJudge(servers, client, reader, self.request_size)
        try:
            for url in servers.bases:
                opened.check(url)
        except BaseException:
            opened.close()
            raise
        return opened

    def _servers(self) -> Servers:
        return Servers(self.urls, self.timeout_seconds, self.retries, self.token_env, self.concurrency)

    def _model(self) -> RewardModel:
        return RewardModel(
            self.path,
            self.revision,
            self.trust_remote_code,
            self.format,
            self.max_tokens,
            chat_template=self.chat_template,
        )


@dataclass(frozen=True)
class PooledJudge:
    """Open connections to the servers."""

    servers: Servers
    client: httpx.Client
    reader: Reader
    request_size: int

    def score(self, rollouts: Rollouts) -> Scored:
        """Score every distinct conversation once, those of similar length in one request.

        Raises ValueError if a server refuses a request, ConnectionError if no server answers.
        """
        return scored(rollouts, self.reader, self._scores)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def check(self, url: str) -> None:
        """Raise ValueError if the server cannot score the longest conversations, or gives only sigmoids of scores."""
        longest = (0,) * self.reader.longest
        try:
            (raw,) = self._post([longest], url)
            (other,) = self._post([longest], url, use_activation=True)
        except Failed as error:
            raise ValueError(
                f"scorer.urls must be servers that are ready, and {url} {reason(error)}. "
                "Fix: start it (vllm serve CHECKPOINT --runner pooling), wait until it is ready, or leave it out."
            ) from error
        if abs(raw - other) < ROUNDING and 0 < raw < 1:
            raise ValueError(
                f"scorer.urls must be servers that can leave scores as they are, and {url} always gives "
                "sigma(score). Fix: use a newer vLLM (0.32 can), or scorer=reward_model."
            )

    def _scores(self, conversations: Sequence[Tokens]) -> list[float]:
        size = self.request_size
        chunks = [conversations[at : at + size] for at in range(0, len(conversations), size)]
        requests: list[Callable[[str], list[float]]] = [partial(self._post, chunk) for chunk in chunks]
        return [score for scores in self.servers.each(requests) for score in scores]

    def _post(self, conversations: Sequence[Tokens], url: str, *, use_activation: bool = False) -> list[float]:
        """Scores, in order. Raises Failed if another server may succeed, else ValueError."""
        asked = {"input": conversations, "use_activation": use_activation, "add_special_tokens": False}
        response = sent(self.client, f"{url}{ROUTE}", json.dumps(asked).encode())
        if response.status_code != 200:
            fixes = {
                401: "Fix: set scorer.token_env to the environment variable that holds the server's token.",
                404: "Fix: start it as a reward model: vllm serve CHECKPOINT --runner pooling.",
                400: f"Fix: serve the checkpoint in scorer.path, so that it can read {self.reader.longest} tokens "
                "(--max-model-len), or lower scorer.max_tokens.",
            }
            raise ValueError(f"{url} {answered(response)} {fixes.get(response.status_code, 'Is it a server of vLLM?')}")
        return _to_scores(response, len(conversations), url)


def _to_scores(response: httpx.Response, number: int, url: str) -> list[float]:
    """One score per conversation. Raises Failed if there are no scores, ValueError if there are several for one."""
    try:
        rows = {int(one["index"]): [float(score) for score in one["probs"]] for one in response.json()["data"]}
        labels = [rows[at] for at in range(number)]
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"gave an answer without scores: {' '.join(response.text.split())[:200]}") from error
    if any(len(scores) != 1 for scores in labels):
        raise ValueError(f"{url} must serve a reward model, which gives one score, and it gives {len(labels[0])}.")
    return [score for (score,) in labels]
