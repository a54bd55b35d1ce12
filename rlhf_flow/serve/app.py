"""The scorer's server as clients see it: POST /score, GET /health, and what each status means.

200 done. 400 called by a name that is not the server's. 401 no token, or another. 402 a cap of the scorer's budget is
reached (which one): nothing more is scored until it is raised. 403 from a page in a browser. 408 a body that comes too
slowly. 413 a body that is too large, or would be once it is parsed. 415 a body that is no JSON. 422 a batch that is
malformed (with the place), or that the scorer refuses (with its words). 503 loading or overloaded. 500 the scorer
failed: an id, under which the server's own error output has the cause. What is said beside a status is in
{"detail": ...}.
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
STATUSES = {
    Overloaded: 503,
    CapReached: 402,
    TooMuch: 413,
    ValueError: 422,
}  # the last: Malformed, or what the scorer refuses
LOOK_SECONDS = 1.0  # between two looks whether a waiting client is still there


def application(
    queue: Queue,
    health: Callable[[], Health | None],
    *,
    token: str | None,
    names: Sequence[str],
    max_body: int,
    seconds: float,
) -> "fastapi.FastAPI":
    """health: None while the scorer is loading. names: by which it is called. max_body: bytes. seconds: for a body."""
    from fastapi import Depends, FastAPI, HTTPException, Request, Response

    def ready() -> Health:
        if (now := health()) is None:
            raise HTTPException(503, "the scorer is still loading", SOON)
        return now

    app = FastAPI(title="rlhf-flow serve", dependencies=[Depends(bearer(token))], openapi_url=None)
    guard(app, names=names, max_body=max_body, seconds=seconds)
    bodies = Bodies(max_body)

    @app.get("/health")
    async def tell() -> Response:
        return Response(wire.from_health(ready()), media_type=JSON)

    @app.post("/score")
    async def score(request: Request) -> Response:
        fingerprint = ready().fingerprint
        try:
            with bodies.room() as room:
                rollouts = await bodies.parsed(await room.read(request))
                scored = await _scored(queue, rollouts, request)
            answer = await asyncio.to_thread(wire.from_reply, Reply(fingerprint, scored))
        except _Gone:
            return Response(status_code=499)  # nobody reads it
        except HTTPException:  # of the guard, while the body was read
            raise
        except Exception as failure:
            status, told = _told(failure)
            raise HTTPException(status, told, SOON if status == 503 else None) from failure
        return Response(answer, media_type=JSON)

    return app


async def _scored(queue: Queue, rollouts: Rollouts, request: "fastapi.Request") -> Scored:
    """The scores. A request whose client has gone meanwhile is taken out of the queue: raises _Gone."""
    scored = queue.put(rollouts)
    while not scored.done():
        await asyncio.wait({scored}, timeout=LOOK_SECONDS)
        if not scored.done() and await request.is_disconnected():
            scored.cancel()
            raise _Gone
    return scored.result()


class _Gone(Exception):  # noqa: N818  # never leaves this file
    """Nobody waits for the answer any more."""


def _told(failure: Exception) -> tuple[int, str]:
    """The status, and what the client hears. A failure is written down here, under an id that is told instead."""
    for kind, status in STATUSES.items():
        if isinstance(failure, kind):
            return status, str(failure)
    id = secrets.token_hex(4)
    print(f"error {id}: the scorer failed", file=sys.stderr)
    print(redacted("".join(traceback.format_exception(failure))), end="", file=sys.stderr)
    return 500, f"the scorer failed; the server's error output says why, under error {id}"
