"""A scorer behind HTTP servers: `rlhf-flow serve`, or others with its protocol (`schema`) or OpenRLHF's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.scorer.chunking import in_pieces
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.llm.budget import CapReached
from rlhf_flow.scorer.pairwise import answers_each
from rlhf_flow.scorer.remote import openrlhf
from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.scorer.remote.openrlhf import OpenRLHFJudge
from rlhf_flow.scorer.remote.schema import Health
from rlhf_flow.scorer.remote.servers import Failed, Servers, answered, sent
from rlhf_flow.specs import Place
from rlhf_flow.system.errors import reason
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    import httpx

PROTOCOLS = ("rlhf-flow", "openrlhf")
HEALTH_SECONDS = 30.0  # timeout of a request to /health


@dataclass(frozen=True)
class Remote:
    """A scorer that is served by `rlhf-flow serve`. All servers must serve the same scorer; each can fail.

    A request that is refused, times out or fails with 5xx is retried on the next server; 4xx is not. `intransitive` and
    the fingerprint are read from the servers.
    """

    urls: list[str]  # http://host:port
    timeout_seconds: float = 300.0  # of one request, queueing included
    retries: int = 6  # rounds through all servers, after the first
    token_env: str | None = None  # environment variable with the servers' token
    request_size: int = 64  # prompts per request
    concurrency: int = 4  # requests at a time
    protocol: str | None = None  # rlhf-flow, or openrlhf (urls hold the whole address); null: rlhf-flow
    tokenizer: str | None = None  # openrlhf: checkpoint whose chat template renders prompts; null: blank lines

    loads_model: ClassVar[bool] = False  # the servers do
    cache_format: ClassVar[None] = None  # the servers may change

    def __post_init__(self) -> None:
        self._servers()
        check_fields(
            self,
            ("request_size", ">= 1", self.request_size >= 1),
            ("protocol", f"one of {', '.join(PROTOCOLS)}, or null", self.protocol in (None, *PROTOCOLS)),
        )

    @property
    def _foreign(self) -> bool:
        return self.protocol == "openrlhf"

    @property
    def intransitive(self) -> bool:
        """Of the served scorer. Raises ValueError as `check`."""
        return not self._foreign and self._health().intransitive

    def fingerprint(self) -> str:
        """Of the served scorer. Raises ValueError as `check`."""
        return openrlhf.fingerprint(self.tokenizer) if self._foreign else self._health().fingerprint

    def check(self) -> None:
        """Raise ValueError if a server is not ready, or two servers serve different scorers."""
        if not self._foreign:
            self._health()
            return
        openrlhf.tokenizer_of(self.tokenizer)
        with self._client() as client:
            openrlhf.reached(client, self._servers().bases)

    def open(self, place: Place) -> RemoteJudge | OpenRLHFJudge:
        """Raises ValueError as `check`. Uses no device of `place`."""
        if self._foreign:
            tokenizer = openrlhf.tokenizer_of(self.tokenizer)
            return OpenRLHFJudge(self._servers(), self._client(), tokenizer, self.request_size)
        return RemoteJudge(self._servers(), self._client(), self._health().fingerprint, self.request_size)

    def _health(self) -> Health:
        with self._client() as client:
            found = {url: _healthy(client, url) for url in self._servers().bases}
        (first, health), *others = found.items()
        for url, other in others:
            if (other.fingerprint, other.intransitive) != (health.fingerprint, health.intransitive):
                raise ValueError(
                    f"scorer.urls must be of one scorer, and {first} serves {health.scorer} "
                    f"({_short(health.fingerprint)}), {url} {other.scorer} ({_short(other.fingerprint)}). "
                    "Fix: start them with the same scorer and the same keys, or leave one out."
                )
        return health

    def _servers(self) -> Servers:
        return Servers(self.urls, self.timeout_seconds, self.retries, self.token_env, self.concurrency)

    def _client(self) -> httpx.Client:
        return self._servers().client(part="scorer=remote", instead="the scorer itself")


class RemoteJudge:
    """Open connections to the servers."""

    def __init__(self, servers: Servers, client: httpx.Client, fingerprint: str, request_size: int) -> None:
        self._servers = servers
        self._client = client
        self._fingerprint = fingerprint
        self._request_size: int | None = request_size  # None: one request, for a scorer with batch metrics

    def score(self, rollouts: Rollouts) -> Scored:
        """Send chunks of prompts, `concurrency` at a time.

        Raises ValueError if a server refuses a request or its scorer has changed since `open`, CapReached if its judge
        reached a cap, ConnectionError if no server answers.
        """
        answers_each(rollouts)
        scored = in_pieces(self._ask, rollouts, self._request_size)
        if scored.batch_metrics:
            self._request_size = None
        return scored

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, chunks: Sequence[Rollouts]) -> list[Scored]:
        requests: list[Callable[[str], Scored]] = [partial(self._post, chunk) for chunk in chunks]
        return self._servers.each(requests)

    def _post(self, chunk: Rollouts, url: str) -> Scored:
        answer = sent(self._client, f"{url}/score", wire.from_rollouts(chunk))
        _check_status(url, answer)
        try:
            reply = wire.to_reply(answer.content, chunk)
        except wire.Malformed as error:
            raise Failed(f"gave an answer without scores: {error}") from error
        if reply.fingerprint != self._fingerprint:
            raise ValueError(
                f"{url} serves another scorer ({_short(reply.fingerprint)}) than when the run was started "
                f"({_short(self._fingerprint)}). Fix: restart it as it was, or leave it out of scorer.urls."
            )
        return reply.scored


def _healthy(client: httpx.Client, url: str) -> Health:
    """Raises ValueError if a server is not ready."""
    try:
        answer = sent(client, f"{url}/health", seconds=HEALTH_SECONDS)
        _check_status(url, answer)
        return wire.to_health(answer.content)
    except (Failed, wire.Malformed) as error:
        raise ValueError(
            f"scorer.urls must be servers that are ready, and {url} {reason(error)}. "
            "Fix: start it (rlhf-flow serve), wait until it is ready, or leave it out."
        ) from error


def _check_status(url: str, answer: httpx.Response) -> None:
    """Raise ValueError or CapReached unless the status is 200: another server would refuse the request too."""
    status = answer.status_code
    if status == 200:
        return
    if status == 402:
        raise CapReached(f"{url} {answered(answer)} Fix: raise that key on the server, and restart it.")
    fixes = {
        400: "Fix: start it with names=[...], the name or the address in this url.",
        401: "Fix: set scorer.token_env to the environment variable that holds the server's token.",
        404: "Fix: give the address that rlhf-flow serve prints.",
        413: "Fix: lower scorer.request_size, or raise the server's max_body_mib.",
        422: "Every server would refuse it.",
    }
    raise ValueError(f"{url} {answered(answer)} {fixes.get(status, 'Is it a server of rlhf-flow serve?')}")


def _short(fingerprint: str) -> str:
    return fingerprint[:12]
