"""Protection of all HTTP servers of the package against foreign hosts, cross-origin requests and unbounded bodies.

A web page of another site can make a browser send requests to this machine, also by DNS rebinding. `guard` rejects
both: a Host other than the server's names, and a POST that is not JSON or comes from another origin.
"""

# No `from __future__ import annotations`: FastAPI reads those of the function inside `bearer`.

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlhf_flow.system.loopback import is_loopback

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")  # methods without side effects
CONNECTIONS = 1000  # further requests are answered 503


def guard(app: "FastAPI", *, names: Sequence[str], max_body: int, seconds: float) -> None:
    """Reject requests to other hosts (400), from other origins (403), and with bodies other than JSON (415).

    max_body: bytes; larger bodies are answered 413. seconds: time limit of a body; slower ones are answered 408.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app.add_middleware(_Bounded, max_body=max_body, seconds=seconds)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)


def names(host: str, further: Sequence[str] = ()) -> list[str]:
    """The allowed Host headers of a server that listens on `host`: names of this machine, and `further` ones."""
    found = [*LOOPBACK, *further]
    if host in ("0.0.0.0", "::"):
        found += [socket.gethostname(), socket.getfqdn(), *_addresses()]
    elif host not in found:
        found.append(f"[{host}]" if ":" in host else host)
    return found


def bearer(token: str | None) -> Callable[..., Any]:
    """A FastAPI dependency that answers 401 to requests without the token. None: all requests pass."""
    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

    scheme = HTTPBearer(auto_error=False)

    async def authorised(given: HTTPAuthorizationCredentials | None = Depends(scheme)) -> None:  # noqa: B008  # FastAPI's way
        shown = b"" if given is None else given.credentials.encode("latin-1", "replace")
        if token is not None and not secrets.compare_digest(shown, token.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    return authorised


def timed(seconds: float) -> "type[H11Protocol]":
    """uvicorn's h11 protocol with a time limit for the head of a request, an option that uvicorn lacks.

    h11 also bounds the size of the head.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Timed(H11Protocol):
        _cut: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._cut is None:
                self._cut = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None

    return Timed


def uvicorn_server(app: "ASGIApp", *, head: float, grace: float) -> "uvicorn.Server":
    """A server of `app`. Seconds: `head` for the head of a request, `grace` for open requests at shutdown."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            access_log=False,
            http=timed(head),
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=int(grace),
        )
    )


class _Bounded:
    """ASGI middleware: checks the head of a request, and bounds its body while the application reads it."""

    def __init__(self, app: "ASGIApp", max_body: int, seconds: float) -> None:
        self._app = app
        self._max_body = max_body
        self._seconds = seconds

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from fastapi import HTTPException, Request
        from fastapi.responses import JSONResponse

        if scope["type"] != "http":
            return
        if refusal := _refusal(Request(scope), self._max_body):
            await JSONResponse({"detail": refusal[1]}, refusal[0])(scope, receive, send)
            return
        end = asyncio.get_running_loop().time() + self._seconds
        came, complete = 0, False

        async def bounded() -> "Message":
            nonlocal came, complete
            if complete:  # only a disconnect can follow
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {self._seconds:g} seconds") from None
            came += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if came > self._max_body:
                raise HTTPException(413, _too_large(self._max_body))
            return message

        await self._app(scope, bounded, send)


def _refusal(request: "Request", max_body: int) -> tuple[int, str] | None:
    """Status and reason, given the head of a request; None if it is accepted."""
    if request.method in SAFE:
        return None
    headers = request.headers
    # As Go's net/http.CrossOriginProtection: browsers send Sec-Fetch-Site, older ones only Origin.
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    elsewhere = site not in ("same-origin", "none") if site else _netloc(origin) != headers.get("host")
    if (site or origin) and elsewhere:
        return 403, "the request comes from a page of another origin"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "the body must be application/json"
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_body:
        return 413, _too_large(max_body)
    return None


def _netloc(origin: str | None) -> str | None:
    with suppress(ValueError):  # not a URL: another origin
        return urlsplit(origin).netloc or None if origin else None
    return None


def _too_large(max_body: int) -> str:
    return f"the body must have at most {max_body} bytes"


def _addresses() -> list[str]:
    """The addresses of this machine, found by its host name and its default routes."""
    found: set[str] = set()
    with suppress(OSError):
        found |= {str(address[4][0]) for address in socket.getaddrinfo(socket.gethostname(), None)}
    for family, elsewhere in (
        (socket.AF_INET, "192.0.2.1"),
        (socket.AF_INET6, "2001:db8::1"),
    ):  # reserved for documentation
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((elsewhere, 9))  # sends nothing; selects the source address
            found.add(str(asked.getsockname()[0]))
    return sorted(f"[{one}]" if ":" in one else one for one in found if not is_loopback(one))
