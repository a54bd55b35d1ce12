"""A reward model that vLLM serves (`vllm serve CHECKPOINT --runner pooling`), asked over HTTP.

P(i beats j) = sigma(r_i - r_j), as of scorer=reward_model, whose numbers it gives to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rlhf_flow.scorer.models.classifier import Reader
from rlhf_flow.scorer.models.reward_model import RewardModel, scored
from rlhf_flow.scorer.remote.servers import Failed, Servers, said, sent
from rlhf_flow.scorer.token_batches import Tokens
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import Templated
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    import httpx

ROUTE = "/classify"
ROUNDING = 1e-3  # between two answers of one server to one question


@dataclass(frozen=True)
class Pooled(Templated):
    """vLLM batches conversations as they come, and each GPU that serves is one more url.

    Conversations are rendered here, by the tokenizer of `path`, and sent as tokens; so every server must serve the
    checkpoint in `path`, whose weights are not loaded but hashed. A request that is refused, times out or ends in a
    server's error (5xx) goes to the next server; a request that is wrong (4xx) does not. The last bits of a score are
    those of the batch that vLLM found for it: scorer=cached keeps the first ones.
    """

    path: str  # local folder, or name on the hub
    urls: list[str]  # http://host:port
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the code that comes with the checkpoint
    format: str = "chat"  # chat: its own template; plain: the texts with blank lines between
    max_tokens: int | None = None  # of prompt and answer; None: all that the model can read
    timeout_seconds: float = 300.0  # of one request: until it is scored, the wait for earlier ones included
    retries: int = 6  # rounds through all servers, after the first
    token_env: str | None = None  # the environment variable that holds the servers' token (vllm serve --api-key)
    request_size: int = 64  # conversations in a request
    concurrency: int = 4  # requests at the same time

    def __post_init__(self) -> None:
        self._servers()
        self._model()
        if self.request_size < 1:
            raise ValueError(f"scorer.request_size must be >= 1, got {self.request_size}")

    @property
    def intransitive(self) -> bool:
        return False  # a number for each answer

    @property
    def loads_model(self) -> bool:
        return False  # the servers do

    @property
    def cache_format(self) -> str:
        return "log_odds"

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; a model of the hub is what its name and revision say."""
        return self._model().fingerprint()

    def check(self) -> None:
        """Raise ValueError where the checkpoint is no reward model, or a server is not ready to score by it."""
        self._model().check()
        self._opened().close()

    def open(self, place: Place) -> PooledJudge:
        """Raises ValueError as `check`. Nothing is put on `place`: the work is the servers'."""
        return self._opened()

    def _opened(self) -> PooledJudge:
        servers, reader = self._servers(), self._model().reader()
        client = servers.client(part="scorer=pooled", instead="scorer=reward_model")
        judge = PooledJudge(servers, client, reader, self.request_size)
        try:
            for url in servers.bases:
                judge.check(url)
        except BaseException:
            judge.close()
            raise
        return judge

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
    """A served reward model at work."""

    servers: Servers
    client: httpx.Client
    reader: Reader
    piece: int

    def score(self, rollouts: Rollouts) -> Scored:
        """As of scorer=reward_model: every conversation once, those of like length in one request.

        Raises ValueError where a server refuses a request, and ConnectionError where none answers any more; each names
        the server, and what it said.
        """
        return scored(rollouts, self.reader, self._scores)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def check(self, url: str) -> None:
        """Raise ValueError where the server cannot score as long conversations as are read, or only squashes scores."""
        longest = (0,) * self.reader.longest
        try:
            (raw,) = self._post([longest], url)
            (other,) = self._post([longest], url, use_activation=True)
        except Failed as error:
            raise ValueError(
                f"scorer.urls must be servers that are ready, and {url} {error}. "
                "Start it (vllm serve CHECKPOINT --runner pooling), wait until it says so, or leave it out."
            ) from error
        if abs(raw - other) < ROUNDING and 0 < raw < 1:
            raise ValueError(
                f"scorer.urls must be servers that can leave scores as they are, and {url} gives sigma(score) whatever "
                "it is asked. Use a newer vLLM (0.32 can), or scorer=reward_model."
            )

    def _scores(self, conversations: Sequence[Tokens]) -> list[float]:
        pieces = [conversations[at : at + self.piece] for at in range(0, len(conversations), self.piece)]
        requests: list[Callable[[str], list[float]]] = [partial(self._post, piece) for piece in pieces]
        return [score for scores in self.servers.each(requests) for score in scores]

    def _post(self, conversations: Sequence[Tokens], url: str, *, use_activation: bool = False) -> list[float]:
        """Scores, in order. Raises Failed, and ValueError where no server would do better."""
        asked = {"input": conversations, "use_activation": use_activation, "add_special_tokens": False}
        response = sent(self.client, f"{url}{ROUTE}", json.dumps(asked).encode())
        if response.status_code != 200:
            ways = {
                401: "Set scorer.token_env to the environment variable that holds the server's token.",
                404: "Start it as a reward model: vllm serve CHECKPOINT --runner pooling.",
                400: f"It must serve the checkpoint in scorer.path, and read {self.reader.longest} tokens "
                "(--max-model-len), or scorer.max_tokens be lower.",
            }
            raise ValueError(f"{url} {said(response)} {ways.get(response.status_code, 'Is it a server of vLLM?')}")
        return _to_scores(response, len(conversations), url)


def _to_scores(response: httpx.Response, several: int, url: str) -> list[float]:
    """One score for each conversation. Raises Failed for what is none, and ValueError for what is no reward model's."""
    try:
        rows = {int(one["index"]): [float(score) for score in one["probs"]] for one in response.json()["data"]}
        labels = [rows[at] for at in range(several)]
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"answered what is no scores: {' '.join(response.text.split())[:200]}") from error
    if any(len(scores) != 1 for scores in labels):
        raise ValueError(f"{url} must serve a reward model, which gives one score, and it gives {len(labels[0])}.")
    return [score for (score,) in labels]
