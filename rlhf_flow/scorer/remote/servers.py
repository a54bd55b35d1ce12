"""Requests to equivalent servers, with failover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.system.optional_deps import require
from rlhf_flow.system.redact import token_in

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0  # timeout of a connection
LONGEST_PAUSE = 30.0  # seconds between two attempts; the first pause is half a second, and each one doubles
SHOWN = 500  # characters of a server's error that are shown
Answer = TypeVar("Answer")


class Failed(Exception):  # noqa: N818  # handled by failover
    """A server failed; another one may answer."""


@dataclass(frozen=True)
class Servers:
    """Addresses, token, timeouts and retries. Errors name the scorer's fields."""

    urls: Sequence[str]  # http://host:port
    timeout_seconds: float  # of one request
    retries: int  # rounds through all servers, after the first
    token_env: str | None  # environment variable with the servers' token
    concurrency: int  # requests at a time

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("urls", "a list of one server or more", bool(self.urls)),
            ("timeout_seconds", "> 0", self.timeout_seconds > 0),
            ("retries", ">= 0", self.retries >= 0),
            ("token_env", "the name of an environment variable", self.token_env != ""),
            ("concurrency", ">= 1", self.concurrency >= 1),
        )
        for at, url in enumerate(self.urls):
            _check_url(f"scorer.urls.{at}", url)

    @property
    def bases(self) -> list[str]:
        return [url.rstrip("/") for url in self.urls]

    def client(self, *, part: str, instead: str) -> httpx.Client:
        """Raises ValueError, naming `part` and `instead`, if httpx is not installed or the token is not set."""
        require("httpx", part=part, extras=("remote",), instead=instead)
        import httpx

        headers = {}
        if self.token_env is not None:
            headers["Authorization"] = f"Bearer {token_in('scorer.token_env', self.token_env)}"
        timeout = httpx.Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds))
        return httpx.Client(headers=headers, timeout=timeout, limits=httpx.Limits(max_connections=self.concurrency))

    def each(self, requests: Sequence[Callable[[str], Answer]]) -> list[Answer]:
        """Call each request with a server's address, `concurrency` at a time; return the answers in order.

        Requests start at successive servers. A request that raises Failed is retried on another server, and any other
        error cancels all. Raises ConnectionError, with each server's error, if a request failed on all of them.
        """
        failed: set[str] = set()  # servers that failed during this call are tried last
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
        rotated = bases[at % len(bases) :] + bases[: at % len(bases)]
        errors = dict.fromkeys(rotated, "was not asked")
        for attempt in range(self.retries + 1):
            for url in sorted(rotated, key=failed.__contains__):
                try:
                    answer = request(url)
                except Failed as failure:
                    errors[url] = str(failure)
                    failed.add(url)
                else:
                    failed.discard(url)
                    return answer
            if attempt == self.retries or stop.wait(min(LONGEST_PAUSE, 0.5 * 2**attempt)):
                break
        raise ConnectionError(
            f"no server of scorer.urls scored a request, {self.retries + 1} times asked: "
            f"{'; '.join(f'{url} {error}' for url, error in errors.items())}. "
            "Fix: restart one, or raise scorer.timeout_seconds or scorer.retries; a resumed run may name other servers."
        )


def sent(client: httpx.Client, url: str, body: bytes | None = None, *, seconds: float | None = None) -> httpx.Response:
    """The response to a POST, or without a body to a GET. `seconds`: timeout, instead of the client's.

    Raises Failed for no response, and for 5xx.
    """
    import httpx

    method, headers = ("GET" if body is None else "POST"), {"Content-Type": "application/json"}
    timeout = client.timeout if seconds is None else httpx.Timeout(seconds)
    try:
        response = client.request(method, url, content=body, headers=headers, timeout=timeout)
    except httpx.RequestError as error:
        detail = f": {error}" if str(error) else ""  # some timeouts of httpx have no text
        raise Failed(f"failed with {type(error).__name__}{detail}") from error
    if response.status_code >= 500:
        raise Failed(answered(response))
    return response


def answered(response: httpx.Response) -> str:
    """A response as one line of text."""
    return f"answered {response.status_code}: {' '.join(response.text.split())[:SHOWN]}"


def _check_url(key: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{key} must hold no name and no password. Fix: put a token into an environment variable, and name that in "
            "scorer.token_env."
        )
    try:
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.port == 0
    except ValueError:  # a port that is no port
        wrong = True
    if wrong:
        raise ValueError(f"{key} must be the address of a server, as http://127.0.0.1:8000, got {url!r}")
