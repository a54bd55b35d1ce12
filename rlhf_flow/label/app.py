"""The labelling server as browsers see it: the page, and what the page asks.

All that changes anything is a POST of JSON, under any path: a proxy may put the page under one of its own.
POST /state       the annotator's question, their progress; it also keeps the question for them
POST /label       a verdict; 200 says that it is on disk. Sent again, with the same id, it is written once
POST /undo        takes the label with this id back
POST /reconsider  hands the annotator again what they have skipped
POST /history     what the annotator said so far
POST /guidelines  what annotators are told
POST /export      the annotator's labels, as lines in the common preference format

An annotator's name belongs to the session that first labelled under it. The session is in a cookie, or in the header
X-Session for browsers that take no cookies.

400 called by a name that is not the server's. 401 no token, or another. 403 a page from elsewhere, or another
annotator's name. 408, 413 and 415 a body that is no small JSON. 422 a request that makes no sense, and why, in
{"detail": ...}.
"""

# Annotations are not postponed here: FastAPI reads those of the functions inside `application`.

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.label.exchange import rows_of
from rlhf_flow.label.markdown import to_html
from rlhf_flow.label.view import history, named, verdict, view
from rlhf_flow.scorer.human.annotations import Annotations
from rlhf_flow.scorer.human.annotators import Annotators, NotTheirs
from rlhf_flow.system.http_guard import bearer, guard

if TYPE_CHECKING:
    import fastapi

FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js", "store.js": "store.js"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MOST = 64 * 2**10  # bytes of a request
SECONDS = 20.0  # in which the body of a request must have come
SESSION = "X-Session"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Asking:
    """The annotator and session of a request."""

    annotator: str


@dataclass(frozen=True)
class Labelled:
    """What /label is told."""

    id: str  # made by the page, new for every label
    question: str
    annotator: str
    choice: str  # left, right, tie, bad or skip
    comment: str = ""
    instead: str | None = None  # the id of the label that this one replaces


@dataclass(frozen=True)
class Undone:
    """What /undo is told."""

    id: str  # of the label
    annotator: str


def application(annotations: Annotations, *, run: str, token: str | None, names: Sequence[str]) -> "fastapi.FastAPI":
    """run: its name. names: by which browsers call it. Without a token, every request by these is answered."""
    from fastapi import APIRouter, Depends, FastAPI, Request, Response
    from fastapi.responses import JSONResponse

    annotators = Annotators(annotations)
    session = _session(annotations.path)
    app = FastAPI(title="rlhf-flow label", openapi_url=None)
    posted = APIRouter(dependencies=[Depends(bearer(token))])

    def known(name: str, session: str) -> str:
        annotator = named(name)
        annotators.check(annotator, session)
        return annotator

    guard(app, names=names, max_body=MOST, seconds=SECONDS)

    @app.middleware("http")
    async def anywhere(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        request.scope["path"] = f"/{request.scope['path'].rpartition('/')[2]}"  # a proxy may leave its own path on
        answer = await call(request)
        answer.headers.update(HEADERS)
        return answer

    _tell_mistakes(app)

    @posted.post("/state")
    def state(asked: Asking, session: str = Depends(session)) -> dict[str, object]:
        return {"run": run, **view(annotations, known(asked.annotator, session))}

    @posted.post("/label")
    def label(said: Labelled, session: str = Depends(session)) -> dict[str, object]:
        annotator = known(said.annotator, session)
        word = verdict(said.choice, said.question, annotator)
        annotations.label(said.id, said.question, annotator, word, comment=said.comment, instead=said.instead)
        return {}

    @posted.post("/undo")
    def undo(taken: Undone, session: str = Depends(session)) -> dict[str, object]:
        annotations.undo(taken.id, known(taken.annotator, session))
        return {}

    @posted.post("/reconsider")
    def reconsider(asked: Asking, session: str = Depends(session)) -> dict[str, object]:
        annotations.reconsider(known(asked.annotator, session))
        return {}

    @posted.post("/history")
    def said_before(asked: Asking, session: str = Depends(session)) -> dict[str, object]:
        return {"labels": history(annotations, known(asked.annotator, session))}

    @posted.post("/export")
    def export(asked: Asking, session: str = Depends(session)) -> dict[str, object]:
        mine = annotations.labels(known(asked.annotator, session))[::-1]
        return {"lines": "".join(f"{json.dumps(row)}\n" for row in rows_of(mine))}

    @posted.post("/guidelines")
    def guidelines(asked: Asking) -> dict[str, object]:
        return {"html": to_html(annotations.guidelines)}

    app.include_router(posted)

    @app.get("/{name}")
    @app.get("/")
    def file(name: str = "") -> Response:
        if (found := FILES.get(name)) is None:
            return JSONResponse({"detail": "there is no such page"}, 404)
        path = Path(__file__).with_name(found)
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    return app


def _session(labels: Path) -> Callable[..., Awaitable[str]]:
    """A dependency for FastAPI: the session of the request; a new one, which the response tells, if it has none."""
    from fastapi import Request, Response

    # Servers on one machine share their cookies, whatever their ports.
    cookie = f"rlhf-flow-{hashlib.sha256(str(labels).encode()).hexdigest()[:12]}"

    async def session(request: Request, response: Response) -> str:
        given = request.headers.get(SESSION) or request.cookies.get(cookie)
        if given:
            return given
        made = secrets.token_urlsafe(16)
        response.headers[SESSION] = made
        response.set_cookie(cookie, made, max_age=10**8, path=None, httponly=True, samesite="strict")
        return made

    return session


def _tell_mistakes(app: "fastapi.FastAPI") -> None:
    from fastapi import Request, Response
    from fastapi.responses import JSONResponse

    @app.exception_handler(ValueError)
    async def mistaken(request: Request, error: ValueError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(NotTheirs)
    async def not_theirs(request: Request, error: NotTheirs) -> Response:
        return JSONResponse({"detail": str(error)}, 403)
