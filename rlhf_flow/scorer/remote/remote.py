"""Any scorer behind HTTP: servers of `rlhf-flow serve`, or others that speak its protocol (`schema`) or OpenRLHF's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rlhf_flow.scorer.chunking import in_pieces
from rlhf_flow.scorer.llm.budget import CapReached
from rlhf_flow.scorer.pairwise import answers_each
from rlhf_flow.scorer.remote import openrlhf
from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.scorer.remote.openrlhf import OpenRLHFJudge
from rlhf_flow.scorer.remote.schema import Health
from rlhf_flow.scorer.remote.servers import Failed, Servers, said, sent
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    import httpx

PROTOCOLS = ("rlhf-flow", "openrlhf")
HEALTH_SECONDS = 30.0  # longest wait for a server to say what it serves


@dataclass(frozen=True)
class Remote:
    """The scorer of `rlhf-flow serve`, asked over HTTP. Several servers must serve the same scorer; each can fail.

    A request that is refused, times out or ends in a server's error (5xx) goes to the next server; a request that is
    wrong (4xx) does not. Whether its preferences can have cycles, and its fingerprint, are what the servers say.
    """

    urls: list[str]  # http://host:port
    timeout_seconds: float = 300.0  # of one request: until it is scored, the wait for earlier ones included
    retries: int = 6  # rounds through all servers, after the first
    token_env: str | None = None  # the environment variable that holds the servers' token
    request_size: int = 64  # prompts in a request
    concurrency: int = 4  # requests at the same time
    protocol: str | None = None  # rlhf-flow, or openrlhf: query -> rewards, at the whole address; null: rlhf-flow
    tokenizer: str | None = None  # openrlhf: the checkpoint whose chat template renders prompts; null: blank lines

    def __post_init__(self) -> None:
        self._servers()
        if self.request_size < 1:
            raise ValueError(f"scorer.request_size must be >= 1, got {self.request_size}")
        if self.protocol not in (None, *PROTOCOLS):
            raise ValueError(f"scorer.protocol must be one of {', '.join(PROTOCOLS)}, or null, got {self.protocol!r}")

    @property
    def _foreign(self) -> bool:
        return self.protocol == "openrlhf"

    @property
    def intransitive(self) -> bool:
        """What the servers say. Raises ValueError as `check`."""
        return not self._foreign and self._health().intransitive

    @property
    def loads_model(self) -> bool:
        return False  # the servers do

    @property
    def cache_format(self) -> None:
        return None  # its servers may change

    def fingerprint(self) -> str:
        """What the servers say. Raises ValueError as `check`."""
        return openrlhf.fingerprint(self.tokenizer) if self._foreign else self._health().fingerprint

    def check(self) -> None:
        """Raise ValueError where a server cannot be reached or is not ready, or two of them serve different scorers."""
        if not self._foreign:
            self._health()
            return
        openrlhf.tokenizer_of(self.tokenizer)
        with self._client() as client:
            openrlhf.reached(client, self._servers().bases)

    def open(self, place: Place) -> RemoteJudge | OpenRLHFJudge:
        """Raises ValueError as `check`. Nothing is put on `place`: the work is the servers'."""
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
                    "Start them with the same scorer and the same keys, or leave one out."
                )
        return health

    def _servers(self) -> Servers:
        return Servers(self.urls, self.timeout_seconds, self.retries, self.token_env, self.concurrency)

    def _client(self) -> httpx.Client:
        return self._servers().client(part="scorer=remote", instead="the scorer itself")


class RemoteJudge:
    """A remote scorer at work."""

    def __init__(self, servers: Servers, client: httpx.Client, fingerprint: str, piece: int) -> None:
        self._servers = servers
        self._client = client
        self._fingerprint = fingerprint
        self._piece: int | None = piece  # None: all at once, for a judge that measures all answers together

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask in pieces, several at a time. The pieces are a function of the rollouts alone.

        Raises ValueError where a server refuses a request or is another scorer than at the start, CapReached where its
        judge may not spend more, and ConnectionError where no server answers any more; each names the server, and what
        it said.
        """
        answers_each(rollouts)
        scored = in_pieces(self._ask, rollouts, self._piece)
        if scored.batch_metrics:
            self._piece = None
        return scored

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, pieces: Sequence[Rollouts]) -> list[Scored]:
        requests: list[Callable[[str], Scored]] = [partial(self._post, piece) for piece in pieces]
        return self._servers.each(requests)

    def _post(self, piece: Rollouts, url: str) -> Scored:
        answer = sent(self._client, f"{url}/score", wire.from_rollouts(piece))
        _check_status(url, answer)
        try:
            reply = wire.to_reply(answer.content, piece)
        except wire.Malformed as error:
            raise Failed(f"answered what is no scores: {error}") from error
        if reply.fingerprint != self._fingerprint:
            raise ValueError(
                f"{url} serves another scorer ({_short(reply.fingerprint)}) than when the run was started "
                f"({_short(self._fingerprint)}). Start it again as it was, or leave it out of scorer.urls."
            )
        return reply.scored


def _healthy(client: httpx.Client, url: str) -> Health:
    """Raises ValueError where a server is not ready to score."""
    try:
        answer = sent(client, f"{url}/health", seconds=HEALTH_SECONDS)
        _check_status(url, answer)
        return wire.to_health(answer.content)
    except (Failed, wire.Malformed) as error:
        raise ValueError(
            f"scorer.urls must be servers that are ready, and {url} {error}. "
            "Start it (rlhf-flow serve), wait until it says so, or leave it out."
        ) from error


def _check_status(url: str, answer: httpx.Response) -> None:
    """Raises ValueError, or CapReached, where it is no scores: the request would be as wrong at another server."""
    status = answer.status_code
    if status == 200:
        return
    if status == 402:
        raise CapReached(f"{url} {said(answer)} That is a key of the server: start it again with more.")
    ways = {
        400: "Start it with names=[...], the name or the address in this url.",
        401: "Set scorer.token_env to the environment variable that holds the server's token.",
        404: "Give the address that rlhf-flow serve prints.",
        413: "Lower scorer.request_size, or raise the server's max_body_mib.",
        422: "No server would score it otherwise.",
    }
    raise ValueError(f"{url} {said(answer)} {ways.get(status, 'Is it a server of rlhf-flow serve?')}")


def _short(fingerprint: str) -> str:
    return fingerprint[:12]
