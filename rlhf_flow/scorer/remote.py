"""Any scorer behind HTTP: one server or several of `rlhf-flow serve`, or whatever speaks `rlhf_flow.scorer.wire`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from rlhf_flow.needs import require
from rlhf_flow.scorer import wire
from rlhf_flow.scorer.wins import answers_each
from rlhf_flow.scorer.wire import Health, Reply
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0  # longest wait for a server to pick up
HEALTH_SECONDS = 30.0  # and to say what it serves
LONGEST_PAUSE = 30.0  # seconds between two attempts; the first pause is half a second, each is twice the one before


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
    piece: int = 64  # prompts in a request
    concurrency: int = 4  # requests at the same time

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("urls", "a list of one server or more", bool(self.urls)),
            ("timeout_seconds", "> 0", self.timeout_seconds > 0),
            ("retries", ">= 0", self.retries >= 0),
            ("token_env", "the name of an environment variable", self.token_env != ""),
            ("piece", ">= 1", self.piece >= 1),
            ("concurrency", ">= 1", self.concurrency >= 1),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")
        for at, url in enumerate(self.urls):
            _check_url(f"scorer.urls.{at}", url)

    @property
    def can_cycle(self) -> bool:
        """What the servers say. Raises ValueError as `check`."""
        return self._health().can_cycle

    @property
    def loads_model(self) -> bool:
        return False  # the servers do

    def fingerprint(self) -> str:
        """What the servers say. Raises ValueError as `check`."""
        return self._health().fingerprint

    def check(self) -> None:
        """Raise ValueError where a server cannot be reached or is not ready, or two of them serve different scorers."""
        self._health()

    def open(self, place: Place) -> RemoteJudge:
        """Raises ValueError as `check`. Nothing is put on `place`: the work is the servers'."""
        return RemoteJudge(self, self._client(), self._health().fingerprint)

    def _health(self) -> Health:
        with self._client() as client:
            found = {url: _healthy(client, url) for url in self.bases}
        (first, health), *others = found.items()
        for url, other in others:
            if (other.fingerprint, other.can_cycle) != (health.fingerprint, health.can_cycle):
                raise ValueError(
                    f"scorer.urls must be of one scorer, and {first} serves {health.scorer} "
                    f"({_short(health.fingerprint)}), {url} {other.scorer} ({_short(other.fingerprint)}). "
                    "Start them with the same scorer and the same keys, or leave one out."
                )
        return health

    def _client(self) -> httpx.Client:
        require("httpx", part="scorer=remote", extras=("remote",), instead="the scorer itself")
        import httpx

        headers = {}
        if self.token_env is not None:
            headers["Authorization"] = f"Bearer {wire.bearer('scorer.token_env', self.token_env)}"
        timeout = httpx.Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds))
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.Client(headers=headers, timeout=timeout, limits=limits)

    @property
    def bases(self) -> list[str]:
        return [url.rstrip("/") for url in self.urls]


class RemoteJudge:
    """A remote scorer at work."""

    def __init__(self, spec: Remote, client: httpx.Client, fingerprint: str) -> None:
        self._spec = spec
        self._client = client
        self._fingerprint = fingerprint
        self._piece: int | None = spec.piece  # None: all at once, for a judge that measures all answers together

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask in pieces, several at a time. The pieces are a function of the rollouts alone.

        Raises ValueError where a server refuses a request or is another scorer than at the start, and ConnectionError
        where no server answers any more; each names the server, and what it said.
        """
        answers_each(rollouts)
        scored = self._in_pieces(rollouts)
        if len(scored) > 1 and any(one.measures for one in scored):
            self._piece = None
            scored = self._in_pieces(rollouts)
        return _together(rollouts, scored)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _in_pieces(self, rollouts: Rollouts) -> list[Scored]:
        pieces, stop = _cut(rollouts, self._piece), Event()
        failed: set[str] = set()  # servers, during this call: they are asked last
        threads = ThreadPoolExecutor(self._spec.concurrency, thread_name_prefix="remote-scorer")
        try:
            asked = threads.map(lambda at, piece: self._ask(at, piece, failed, stop), range(len(pieces)), pieces)
            return list(asked)
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)

    def _ask(self, at: int, piece: Rollouts, failed: set[str], stop: Event) -> Scored:
        """The scores of piece number `at`, from the first server that gives them; each piece begins at the next one."""
        bases = self._spec.bases
        turned = bases[at % len(bases) :] + bases[: at % len(bases)]
        body, told = wire.from_rollouts(piece), dict.fromkeys(turned, "was not asked")
        for attempt in range(self._spec.retries + 1):
            for url in sorted(turned, key=failed.__contains__):
                try:
                    reply = self._post(url, body, piece)
                except _Failed as failure:
                    told[url] = str(failure)
                    failed.add(url)
                else:
                    failed.discard(url)
                    return reply.scored
            if attempt == self._spec.retries or stop.wait(min(LONGEST_PAUSE, 0.5 * 2**attempt)):
                break
        raise ConnectionError(
            f"no server of scorer.urls scored a request, {self._spec.retries + 1} times asked: "
            f"{'; '.join(f'{url} {said}' for url, said in told.items())}. "
            "Start one again, or raise scorer.timeout_seconds or scorer.retries; a resume may name other servers."
        )

    def _post(self, url: str, body: bytes, piece: Rollouts) -> Reply:
        import httpx

        try:
            answer = self._client.post(f"{url}/score", content=body, headers={"Content-Type": "application/json"})
        except httpx.RequestError as error:
            raise _Failed(_said(error)) from error
        _check_status(url, answer)
        try:
            reply = wire.to_reply(answer.content, piece)
        except wire.Malformed as error:
            raise _Failed(f"answered what is no scores: {error}") from error
        if reply.fingerprint != self._fingerprint:
            raise ValueError(
                f"{url} serves another scorer ({_short(reply.fingerprint)}) than when the run was started "
                f"({_short(self._fingerprint)}). Start it again as it was, or leave it out of scorer.urls."
            )
        return reply


class _Failed(Exception):  # noqa: N818  # never leaves this file
    """A server did not do its part; another one may."""


def _healthy(client: httpx.Client, url: str) -> Health:
    """Raises ValueError where a server is not ready to score."""
    import httpx

    try:
        answer = client.get(f"{url}/health", timeout=HEALTH_SECONDS)
        _check_status(url, answer)
        return wire.to_health(answer.content)
    except (httpx.RequestError, _Failed, wire.Malformed) as error:
        said = _said(error) if isinstance(error, httpx.RequestError) else str(error)
        raise ValueError(
            f"scorer.urls must be servers that are ready, and {url} {said}. "
            "Start it (rlhf-flow serve), wait until it says so, or leave it out."
        ) from error


def _check_status(url: str, answer: httpx.Response) -> None:
    """Raises _Failed where another server may do better, and ValueError where the request would be as wrong there."""
    status = answer.status_code
    if status == 200:
        return
    said = f"answered {status}: {' '.join(answer.text.split())[:500]}"
    if status >= 500:
        raise _Failed(said)
    ways = {
        401: "Set scorer.token_env to the environment variable that holds the server's token.",
        404: "Give the address that rlhf-flow serve prints.",
        413: "Lower scorer.piece, or raise the server's max_body_mib.",
        422: "No server would score it otherwise.",
    }
    raise ValueError(f"{url} {said} {ways.get(status, 'Is it a server of rlhf-flow serve?')}")


def _check_url(key: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{key} must hold no name and no password. Put a token into an environment variable, and name that in "
            "scorer.token_env."
        )
    try:
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.port == 0
    except ValueError:  # a port that is no port
        wrong = True
    if wrong:
        raise ValueError(f"{key} must be the address of a server, as http://127.0.0.1:8000, got {url!r}")


def _said(error: Exception) -> str:
    """What went wrong with a connection. httpx says nothing of some timeouts."""
    return f"failed with {type(error).__name__}" + (f": {error}" if str(error) else "")


def _short(fingerprint: str) -> str:
    return fingerprint[:12]


def _cut(rollouts: Rollouts, size: int | None) -> list[Rollouts]:
    """Pieces of so many prompts; at least one, so that a judge is asked about nothing, too."""
    b = len(rollouts.prompts)
    bounds = [*range(0, b, size or b or 1), b] if b else [0, 0]
    return [
        replace(rollouts, prompts=rollouts.prompts[start:end], responses=rollouts.responses[start:end])
        for start, end in pairwise(bounds)
    ]


def _together(rollouts: Rollouts, pieces: Sequence[Scored]) -> Scored:
    """The scores of all pieces, in order; counts add up. Raises ValueError where pieces have different aspects."""
    names = list(pieces[0].aspects)
    if any(piece.aspects.keys() != set(names) for piece in pieces):
        raise ValueError(
            "the scorer must name the same aspects for every response; in one request it named "
            f"{', '.join(names) or 'none'}, and in another one others"
        )
    counts: dict[str, int] = {}
    for piece in pieces:
        for name, count in piece.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Scored(
        rollouts,
        utility=np.concatenate([piece.utility for piece in pieces]),
        wins=np.concatenate([piece.wins for piece in pieces]),
        aspects={name: np.concatenate([piece.aspects[name] for piece in pieces]) for name in names},
        counts=counts,
        measures=pieces[0].measures,
    )
