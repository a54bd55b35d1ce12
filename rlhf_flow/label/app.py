"""The labelling server: the page, and the requests of the page.

Every change is a POST of JSON. Only the last part of the path counts, so a proxy may serve the page under a prefix.
POST /state       the annotator's question and progress; also keeps the question for them
POST /label       a verdict; 200 says that it is on disk. The same id is written once
POST /undo        removes the label with this id
POST /reconsider  offers the annotator their skipped questions again
POST /history     the annotator's labels
POST /guidelines  the instructions for annotators
POST /export      the annotator's labels, as lines in the common preference format

An annotator's name belongs to the session that first labelled under it. The session is in a cookie, or in the header
X-Session for browsers without cookies.

400 unknown host name. 401 missing or wrong token. 403 request from another origin, or another annotator's name.
408, 413, 415 body too slow, too large, or not JSON. 422 invalid request, with the reason in {"detail": ...}.
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
from rlhf_flow.label.view import annotator_name, history, verdict, view
from rlhf_flow.scorer.human.annotations import Annotations
from rlhf_flow.scorer.human.annotators import Annotators, NotTheirs
from rlhf_flow.system.http_guard import bearer, guard

if TYPE_CHECKING:
    import fastapi

FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js", "store.js": "store.js"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MAX_BODY = 64 * 2**10  # bytes
SECONDS = 20.0  # to receive the body of a request
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
class AnnotatorBody:
    """The body of a request that names only the annotator."""

    annotator: str


@dataclass(frozen=True)
class LabelBody:
    """The body of /label."""

    id: str  # made by the page, new for every label
    question: str
    annotator: str
    choice: str  # left, right, tie, bad or skip
    comment: str = ""
    instead: str | None = None  # id of the label that this one replaces


@dataclass(frozen=True)
class UndoBody:
    """The body of /undo."""

    id: str  # of the label
    annotator: str


def application(annotations: Annotations, *, run: str, token: str | None, names: Sequence[str]) -> "fastapi.FastAPI":
    """The server's app. names: the host names that requests may use. token: None accepts requests without one."""
    from fastapi import APIRouter, Depends, FastAPI, Request, Response

    annotators = Annotators(annotations)
    session = _session(annotations.path)
    app = FastAPI(title="rlhf-flow label", openapi_url=None)
    posted = APIRouter(dependencies=[Depends(bearer(token))])
    guard(app, names=names, max_body=MAX_BODY, seconds=SECONDS)

    @app.middleware("http")
    async def last_part_of_path(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        request.scope["path"] = f"/{request.scope['path'].rpartition('/')[2]}"
        answer = await call(request)
        answer.headers.update(HEADERS)
        return answer

    for kind, status in ((ValueError, 422), (NotTheirs, 403)):
        app.add_exception_handler(kind, _answers_with(status))

    def checked(name: str, session: str) -> str:
        annotator = annotator_name(name)
        annotators.check(annotator, session)
        return annotator

    @posted.post("/state")
    def state(body: AnnotatorBody, session: str = Depends(session)) -> dict[str, object]:
        return {"run": run, **view(annotations, checked(body.annotator, session))}

    @posted.post("/label")
    def label(body: LabelBody, session: str = Depends(session)) -> dict[str, object]:
        annotator = checked(body.annotator, session)
        word = verdict(body.choice, body.question, annotator)
        annotations.label(body.id, body.question, annotator, word, comment=body.comment, instead=body.instead)
        return {}

    @posted.post("/undo")
    def undo(body: UndoBody, session: str = Depends(session)) -> dict[str, object]:
        annotations.undo(body.id, checked(body.annotator, session))
        return {}

    @posted.post("/reconsider")
    def reconsider(body: AnnotatorBody, session: str = Depends(session)) -> dict[str, object]:
        annotations.reconsider(checked(body.annotator, session))
        return {}

    @posted.post("/history")
    def labels(body: AnnotatorBody, session: str = Depends(session)) -> dict[str, object]:
        return {"labels": history(annotations, checked(body.annotator, session))}

    @posted.post("/export")
    def export(body: AnnotatorBody, session: str = Depends(session)) -> dict[str, object]:
        own = annotations.labels(checked(body.annotator, session))[::-1]
        return {"lines": "".join(f"{json.dumps(row)}\n" for row in rows_of(own))}

    @posted.post("/guidelines")
    def guidelines(body: AnnotatorBody) -> dict[str, object]:
        return {"html": to_html(annotations.guidelines)}

    app.include_router(posted)

    app.get("/{name}", response_model=None)(_file)
    app.get("/", response_model=None)(_file)
    return app


def _session(labels: Path) -> Callable[..., Awaitable[str]]:
    """A dependency for FastAPI: the session of the request. Without one, it makes one and sends it in the response."""
    from fastapi import Request, Response

    # cookies ignore the port: all servers on one host share them
    cookie = f"rlhf-flow-{hashlib.sha256(str(labels).encode()).hexdigest()[:12]}"

    async def session(request: Request, response: Response) -> str:
        given = request.headers.get(SESSION) or request.cookies.get(cookie)
        if given:
            return given
        new = secrets.token_urlsafe(16)
        response.headers[SESSION] = new
        response.set_cookie(cookie, new, max_age=10**8, path=None, httponly=True, samesite="strict")
        return new

    return session


def _answers_with(status: int) -> "Callable[[fastapi.Request, Exception], fastapi.Response]":
    from fastapi.responses import JSONResponse

    return lambda request, error: JSONResponse({"detail": str(error)}, status)


def _file(name: str = "") -> "fastapi.Response":
    from fastapi.responses import JSONResponse, Response

    if (found := FILES.get(name)) is None:
        return JSONResponse({"detail": "there is no such page"}, 404)
    path = Path(__file__).with_name(found)
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])
