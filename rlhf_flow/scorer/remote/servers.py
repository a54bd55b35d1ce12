"""Requests to several servers that answer alike: what one fails to do, the next one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from rlhf_flow.system.optional_deps import require
from rlhf_flow.system.redact import token_in

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0  # longest wait for a server to pick up
LONGEST_PAUSE = 30.0  # seconds between two attempts; the first pause is half a second, each is twice the one before
SHOWN = 500  # characters of what a server says when it fails
Answer = TypeVar("Answer")


class Failed(Exception):  # noqa: N818  # the next server may well answer
    """A server did not do its part; another one may."""


@dataclass(frozen=True)
class Servers:
    """Where they are, and how long it may take. Every error names the field of the scorer that it comes from."""

    urls: Sequence[str]  # http://host:port
    timeout_seconds: float  # of one request
    retries: int  # rounds through all servers, after the first
    token_env: str | None  # the environment variable that holds the servers' token
    concurrency: int  # requests at the same time

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("urls", "a list of one server or more", bool(self.urls)),
            ("timeout_seconds", "> 0", self.timeout_seconds > 0),
            ("retries", ">= 0", self.retries >= 0),
            ("token_env", "the name of an environment variable", self.token_env != ""),
            ("concurrency", ">= 1", self.concurrency >= 1),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")
        for at, url in enumerate(self.urls):
            _check_url(f"scorer.urls.{at}", url)

    @property
    def bases(self) -> list[str]:
        return [url.rstrip("/") for url in self.urls]

    def client(self, *, part: str, instead: str) -> httpx.Client:
        """Raises ValueError where there is no client, or no token where one is named; `part` needs it."""
        require("httpx", part=part, extras=("remote",), instead=instead)
        import httpx

        headers = {}
        if self.token_env is not None:
            headers["Authorization"] = f"Bearer {token_in('scorer.token_env', self.token_env)}"
        timeout = httpx.Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds))
        return httpx.Client(headers=headers, timeout=timeout, limits=httpx.Limits(max_connections=self.concurrency))

    def each(self, requests: Sequence[Callable[[str], Answer]]) -> list[Answer]:
        """What each request, made to the base of a server, is answered, in order; the first are made side by side.

        Each begins at the next server. One that raises Failed goes on to another, and any other error ends them all.
        Raises ConnectionError, with what each server said, where one has failed at all of them.
        """
        failed: set[str] = set()  # servers, during this call: they are asked last
        stop = Event()
        threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="servers")
        try:
            return list(
                threads.map(lambda at, request: self._ask(at, request, failed, stop), range(len(requests)), requests)
            )
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)

    def _ask(self, at: int, request: Callable[[str], Answer], failed: set[str], stop: Event) -> Answer:
        bases = self.bases
        turned = bases[at % len(bases) :] + bases[: at % len(bases)]
        told = dict.fromkeys(turned, "was not asked")
        for attempt in range(self.retries + 1):
            for url in sorted(turned, key=failed.__contains__):
                try:
                    answer = request(url)
                except Failed as failure:
                    told[url] = str(failure)
                    failed.add(url)
                else:
                    failed.discard(url)
                    return answer
            if attempt == self.retries or stop.wait(min(LONGEST_PAUSE, 0.5 * 2**attempt)):
                break
        raise ConnectionError(
            f"no server of scorer.urls scored a request, {self.retries + 1} times asked: "
            f"{'; '.join(f'{url} {said}' for url, said in told.items())}. "
            "Start one again, or raise scorer.timeout_seconds or scorer.retries; a resume may name other servers."
        )


def sent(client: httpx.Client, url: str, body: bytes | None = None, *, seconds: float | None = None) -> httpx.Response:
    """The response to a POST, or without a body to a GET, whatever its status; `seconds`: of this request.

    Raises Failed where there is none, or the server itself failed (5xx).
    """
    import httpx

    method, headers = ("GET" if body is None else "POST"), {"Content-Type": "application/json"}
    timeout = client.timeout if seconds is None else httpx.Timeout(seconds)
    try:
        response = client.request(method, url, content=body, headers=headers, timeout=timeout)
    except httpx.RequestError as error:
        told = f": {error}" if str(error) else ""  # httpx says nothing of some timeouts
        raise Failed(f"failed with {type(error).__name__}{told}") from error
    if response.status_code >= 500:
        raise Failed(said(response))
    return response


def said(response: httpx.Response) -> str:
    """What a server answered, in a line."""
    return f"answered {response.status_code}: {' '.join(response.text.split())[:SHOWN]}"


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
