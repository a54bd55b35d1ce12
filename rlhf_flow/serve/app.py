"""The scorer server: POST /score and GET /health.

200 scored. 400 unknown host name. 401 missing or wrong token. 402 a cap of the scorer's budget is reached, named in the
detail; nothing is scored until it is raised. 403 request from a browser page of another origin. 408 body too slow.
413 body too large, or too large once parsed. 415 body not JSON. 422 malformed batch (with the place), or refused by the
scorer (with its message). 500 the scorer failed; the detail has an id under which the server logs the traceback.
503 loading or overloaded. Errors carry {"detail": ...}.
"""

# Annotations are not postponed here: FastAPI reads those of the functions inside `application`.

import asyncio
import secrets
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlhf_flow.scorer.llm.budget import CapReached
from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.scorer.remote.schema import Health, Reply
from rlhf_flow.serve.batching import Overloaded, Queue
from rlhf_flow.serve.bodies import Bodies, TooMuch
from rlhf_flow.system.http_guard import bearer, guard
from rlhf_flow.system.redact import redacted
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    import fastapi

JSON = "application/json"
MIB = 2**20
SOON = {"Retry-After": "1"}  # seconds
STATUSES = {Overloaded: 503, CapReached: 402, TooMuch: 413, ValueError: 422}  # ValueError: malformed or refused
POLL_SECONDS = 1.0  # between two checks whether a waiting client is still connected


def application(
    queue: Queue,
    health: Callable[[], Health | None],
    *,
    token: str | None,
    names: Sequence[str],
    max_body: int,
    seconds: float,
) -> "fastapi.FastAPI":
    """The server's app.

    health: returns None while the scorer is loading. names: the host names that requests may use. max_body: bytes.
    seconds: to receive a body.
    """
    from fastapi import Depends, FastAPI, HTTPException, Request, Response

    def ready() -> Health:
        if (now := health()) is None:
            raise HTTPException(503, "the scorer is still loading", SOON)
        return now

    app = FastAPI(title="rlhf-flow serve", dependencies=[Depends(bearer(token))], openapi_url=None)
    guard(app, names=names, max_body=max_body, seconds=seconds)
    bodies = Bodies(max_body)

    @app.get("/health")
    async def get_health() -> Response:
        return Response(wire.from_health(ready()), media_type=JSON)

    @app.post("/score")
    async def score(request: Request) -> Response:
        fingerprint = ready().fingerprint
        try:
            async with bodies.read(request.stream()) as body:
                scored = await _scored(queue, await bodies.parsed(body), request)
            answer = await asyncio.to_thread(wire.from_reply, Reply(fingerprint, scored))
        except _Disconnected:
            return Response(status_code=499)
        except HTTPException:  # the guard's, while the body was read
            raise
        except Exception as failure:
            status, detail = _status(failure)
            raise HTTPException(status, detail, SOON if status == 503 else None) from failure
        return Response(answer, media_type=JSON)

    return app


async def _scored(queue: Queue, rollouts: Rollouts, request: "fastapi.Request") -> Scored:
    """The scores. If the client disconnects, cancels its request and raises _Disconnected."""
    scored = queue.put(rollouts)
    while not scored.done():
        await asyncio.wait({scored}, timeout=POLL_SECONDS)
        if not scored.done() and await request.is_disconnected():
            scored.cancel()
            raise _Disconnected
    return scored.result()


class _Disconnected(Exception):  # noqa: N818  # never leaves this file
    """The client has closed the connection."""


def _status(failure: Exception) -> tuple[int, str]:
    """The status and the detail. An unexpected failure is logged under an id, and the detail has only the id."""
    for kind, status in STATUSES.items():
        if isinstance(failure, kind):
            return status, str(failure)
    id = secrets.token_hex(4)
    print(f"error {id}: the scorer failed", file=sys.stderr)
    print(redacted("".join(traceback.format_exception(failure))), end="", file=sys.stderr)
    return 500, f"the scorer failed; the server's error output says why, under error {id}"
