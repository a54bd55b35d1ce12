"""The labelling server as browsers see it: the page, and what the page asks.

All that changes anything is a POST of JSON:
POST /state  the annotator's question, their progress; it also keeps the question for them
POST /label  a verdict; 200 says that it is on disk. Sent again, with the same id, it is written once
POST /undo   takes the label with this id back

401 no token, or another. 403 a page from elsewhere. 411, 413 and 415 a body that is no small JSON. 422 a request that
makes no sense, and why, in {"detail": ...}.
"""

# Annotations are not postponed here: FastAPI reads those of the functions inside `application`.

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rlhf_flow.label.view import named, verdict, view
from rlhf_flow.listening import is_loopback
from rlhf_flow.scorer.annotations import Annotations

if TYPE_CHECKING:
    import fastapi

FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MOST = 64 * 2**10  # bytes of a request
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Looking:
    """What /state is told."""

    annotator: str


@dataclass(frozen=True)
class Labelled:
    """What /label is told."""

    id: str  # made by the page, new for every label
    question: str
    annotator: str
    choice: str  # left, right, tie or skip


@dataclass(frozen=True)
class Undone:
    """What /undo is told."""

    id: str  # of the label
    annotator: str


def application(annotations: Annotations, *, run: str, token: str | None) -> "fastapi.FastAPI":
    """`run`: its name. Without a token only browsers on this machine are answered, and no page from elsewhere."""
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse

    app = FastAPI(title="rlhf-flow label", openapi_url=None)

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = _refused(request, token)
        answer = await call(request) if refusal is None else JSONResponse({"detail": refusal[1]}, refusal[0])
        answer.headers.update(HEADERS)
        return answer

    @app.exception_handler(ValueError)
    async def mistaken(request: Request, error: ValueError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.post("/state")
    def state(asked: Looking) -> dict[str, object]:
        return {"run": run, **view(annotations, named(asked.annotator))}

    @app.post("/label")
    def label(said: Labelled) -> dict[str, object]:
        annotator = named(said.annotator)
        annotations.label(said.id, said.question, annotator, verdict(said.choice, said.question, annotator))
        return {}

    @app.post("/undo")
    def undo(taken: Undone) -> dict[str, object]:
        annotations.undo(taken.id, named(taken.annotator))
        return {}

    @app.get("/{name:path}")
    def file(name: str) -> Response:
        if (found := FILES.get(f"/{name}")) is None:
            return JSONResponse({"detail": "there is no such page"}, 404)
        path = Path(__file__).with_name(found)
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    return app


def _refused(request: "fastapi.Request", token: str | None) -> tuple[int, str] | None:
    """The status and the reason. Nothing of the body was read."""
    headers = request.headers
    name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    if token is None and not is_loopback(name):  # the name of a page elsewhere may be made to lead here
        return 403, f"called as {name!r}, which is not this machine's own name; try 127.0.0.1"
    if request.method != "POST":
        return None
    scheme, _, given = headers.get("authorization", "").partition(" ")
    shown = scheme.lower() == "bearer" and secrets.compare_digest(given.encode("latin-1"), (token or "").encode())
    if token is not None and not shown:
        return 401, "the token is missing or wrong"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "the body must be application/json"  # which no page from elsewhere can send without being asked
    if not headers.get("content-length", "").isdecimal():
        return 411, "the length of the body must be said"
    if int(headers["content-length"]) > MOST:
        return 413, f"the body must have at most {MOST} bytes"
    return None
