"""What every server here refuses before it does anything: foreign names, foreign pages, and bodies without bounds.

A page of another site can make a browser send requests to this machine, also under a name of its own that leads here.
`guard` refuses both: a Host that is not the server's own, and a POST that is not JSON or comes from another origin.
"""

# Annotations are not postponed here: FastAPI reads those of the function inside `bearer`.

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
SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing here
CONNECTIONS = 1000  # beyond them a request is answered 503


def guard(app: "FastAPI", *, names: Sequence[str], max_body: int, seconds: float) -> None:
    """Refuse requests under other names (400), from pages elsewhere (403) and bodies that are no JSON (415).

    max_body: bytes; a larger one is answered 413. seconds: in which a body must have come; a slower one is answered
    408.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app.add_middleware(_Bounded, max_body=max_body, seconds=seconds)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)


def names(host: str, further: Sequence[str] = ()) -> list[str]:
    """The names of a server that listens on `host`: this machine's and `further` ones, as a Host header has them."""
    found = [*LOOPBACK, *further]
    if host in ("0.0.0.0", "::"):
        found += [socket.gethostname(), socket.getfqdn(), *_addresses()]
    elif host not in found:
        found.append(f"[{host}]" if ":" in host else host)
    return found


def bearer(token: str | None) -> Callable[..., Any]:
    """A dependency for FastAPI: 401 for a request without the token. None: every request may pass."""
    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

    scheme = HTTPBearer(auto_error=False)

    async def authorised(given: HTTPAuthorizationCredentials | None = Depends(scheme)) -> None:  # noqa: B008  # FastAPI's way
        shown = b"" if given is None else given.credentials.encode("latin-1", "replace")
        if token is not None and not secrets.compare_digest(shown, token.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    return authorised


def timed(seconds: float) -> "type[H11Protocol]":
    """uvicorn's protocol with a limit for the head of a request, which uvicorn has not: a slower one is cut off.

    It is the one on h11, which bounds the size of a head too. It can go once uvicorn has an option for this.
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
    """Serves `app`: `head` seconds for the head of a request, `grace` for what is under way when the server ends."""
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
    """ASGI: checks the head of a request, and bounds its body while the application reads it."""

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
            if complete:  # what comes now is that the client has gone
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
    """The status and the reason. Nothing of the body was read."""
    if request.method in SAFE:
        return None
    headers = request.headers
    # As Go's net/http.CrossOriginProtection: browsers say where a request comes from, older ones by the origin alone.
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
    with suppress(ValueError):  # what is no URL comes from elsewhere
        return urlsplit(origin).netloc or None if origin else None
    return None


def _too_large(max_body: int) -> str:
    return f"the body must have at most {max_body} bytes"


def _addresses() -> list[str]:
    """Those of this machine, as far as its own name and its way to others tell."""
    found: set[str] = set()
    with suppress(OSError):
        found |= {str(address[4][0]) for address in socket.getaddrinfo(socket.gethostname(), None)}
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):  # of documentation
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((elsewhere, 9))  # sends nothing: it chooses the address that a packet would have
            found.add(str(asked.getsockname()[0]))
    return sorted(f"[{one}]" if ":" in one else one for one in found if not is_loopback(one))
