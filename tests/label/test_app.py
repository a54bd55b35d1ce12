"""The server as a client sees it: what is shown, what is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from rlhf_flow.label.app import application
from rlhf_flow.label.markdown import to_html
from rlhf_flow.label.view import first_left
from rlhf_flow.scorer.human.annotations import Annotations
from rlhf_flow.scorer.human.annotators import Annotators
from rlhf_flow.system.http_guard import names
from tests.support.labelling import question, questions

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def annotations(tmp_path: Path) -> Iterator[Annotations]:
    opened = Annotations(tmp_path)
    yield opened
    opened.close()


def client(annotations: Annotations, *, host: str = "127.0.0.1", token: str | None = None) -> TestClient:
    app = application(annotations, run="my run", token=token, names=names("127.0.0.1", ["labels.example"]))
    return TestClient(app, base_url=f"http://{host}:8765")


def test_a_question_comes_with_its_answers_on_drawn_sides_and_the_counts(annotations: Annotations) -> None:
    asked = questions(24)
    annotations.ask(asked, needed=1, deadline=None)
    page, left = client(annotations), []
    for k, one in enumerate(asked):
        state = page.post("/state", json={"annotator": " Ann  B "}).json()
        shown = state["question"]
        assert (state["run"], shown["key"]) == ("my run", one.key)
        assert shown["messages"] == [{"role": "user", "html": f"<p>Question {k}?</p>\n"}]
        assert state["progress"] == {"mine": k, "asked": 24, "open": 24 - k, "skipped": 0}
        assert state["last"] == (f"id {k - 1}" if k else None)
        left.append(shown["left"] == f"<p>first {k}</p>\n")
        assert left[-1] == first_left(one.key, "Ann B")
        assert shown["right"] == f"<p>{'second' if left[-1] else 'first'} {k}</p>\n"
        said = {"id": f"id {k}", "question": one.key, "annotator": "Ann B", "choice": "left"}
        assert page.post("/label", json=said).json() == {}
    assert [one.said["Ann B"] for one in annotations.standings(asked)] == ["first" if one else "second" for one in left]
    assert 4 <= sum(left) <= 20, "neither side is the first answer's"
    assert page.post("/state", json={"annotator": "Ann B"}).json()["question"] is None


def test_agreement_is_told_once_two_people_have_labelled_the_same(annotations: Annotations) -> None:
    asked = questions(2)
    annotations.ask(asked, needed=2, deadline=None)
    page = client(annotations)
    for number, (who, verdict) in enumerate([("Ann", "tie"), ("Bob", "tie"), ("Cleo", "skip")]):
        assert number > 1 or page.post("/state", json={"annotator": who}).json()["agreement"] is None
        annotations.label(str(number), asked[0].key, who, verdict)
    found = page.post("/state", json={"annotator": "Ann"}).json()["agreement"]
    assert found == {"pairs": 1, "share": 1.0, "alpha": None}


def test_undo_takes_back_by_the_labels_id(annotations: Annotations) -> None:
    asked = questions(2)
    annotations.ask(asked, needed=1, deadline=None)
    page = client(annotations)
    page.post("/label", json={"id": "1", "question": asked[0].key, "annotator": "Ann", "choice": "skip"})
    for _ in range(2):
        assert page.post("/undo", json={"id": "1", "annotator": "Ann"}).status_code == 200
    state = page.post("/state", json={"annotator": "Ann"}).json()
    assert (state["question"]["key"], state["last"]) == (asked[0].key, None)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/label", {"id": "1", "question": "x", "annotator": "Ann", "choice": "left"}, "there is no question 'x'"),
        ("/label", {"id": "1", "question": "x", "annotator": "Ann", "choice": "first"}, "choice must be one of left"),
        ("/state", {"annotator": "  "}, "annotator must be a name of at most 80 characters"),
        ("/state", {"annotator": "A" * 81}, "annotator must be a name of at most 80 characters"),
        ("/state", {}, "annotator"),
        ("/undo", {"id": 3, "annotator": "Ann"}, "valid string"),
    ],
)
def test_a_request_that_makes_no_sense_is_told_why(
    annotations: Annotations, path: str, body: dict[str, Any], told: str
) -> None:
    answer = client(annotations).post(path, json=body)
    assert answer.status_code == 422
    assert told in json.dumps(answer.json()["detail"])


def test_a_page_from_elsewhere_is_refused(annotations: Annotations) -> None:
    body = json.dumps({"annotator": "Ann"})
    page = client(annotations)
    assert page.post("/state", content=body, headers=JSON).status_code == 200
    assert page.post("/state", content=body, headers={"Content-Type": "text/plain"}).status_code == 415
    assert page.post("/state", content=iter([body.encode()]), headers=JSON).status_code == 200
    assert page.post("/state", content=iter([b" " * 32768] * 3), headers=JSON).status_code == 413
    assert page.post("/state", content=b" " * 65537, headers=JSON).status_code == 413
    for host, status in (("localhost", 200), ("[::1]", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400)):
        alone = json.dumps({"annotator": host})
        assert client(annotations, host=host).post("/state", content=alone, headers=JSON).status_code == status
    assert page.post("/state", content=body, headers={**JSON, "Host": "[::1"}).status_code == 400
    for elsewhere in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert page.post("/state", content=body, headers={**JSON, **elsewhere}).status_code == 403
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in page.options("/state", headers=preflight).headers


def test_a_token_is_asked_of_whoever_reads_or_writes(annotations: Annotations) -> None:
    page = client(annotations, host="labels.example", token="secret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        for path in ("/state", "/label", "/undo"):
            assert page.post(path, json={"annotator": "Ann"}, headers=headers).status_code == 401
    shown = {"Authorization": "Bearer secret"}
    assert page.post("/state", json={"annotator": "Ann"}, headers=shown).status_code == 200
    assert page.get("/").status_code == 200, "the page itself, which asks for it"


def test_the_page_is_all_there_is_and_forbids_what_it_does_not_need(annotations: Annotations) -> None:
    page = client(annotations)
    for path, kind in (
        *(("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")),
        *(("/store.js", "text/javascript"), ("/under/a/proxy/", "text/html"), ("/under/page.css", "text/css")),
    ):
        answer = page.get(path)
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert "http://" not in answer.text and "https://" not in answer.text.replace("on https", "")
    for path in ("/../command.py", "/app.py", "/docs", "/%2e%2e/labels.sqlite"):
        assert page.get(path).status_code == 404


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>\n"),
        ("a <b onclick=x>b</b>", "<p>a &lt;b onclick=x&gt;b&lt;/b&gt;</p>\n"),
        ("[a](javascript:x)", "<p>[a](javascript:x)</p>\n"),
        ("[a](JaVa&#115;cript:x)", "<p>[a](JaVascript:x)</p>\n"),
        ("[a](data:text/html,x) [b](/undo) [c](//e.org)", "<p>[a](data:text/html,x) [b](/undo) [c](//e.org)</p>\n"),
        ("one\ntwo", "<p>one<br />\ntwo</p>\n"),
        ("call __init__ and _x_ now", "<p>call __init__ and _x_ now</p>\n"),
        ("2*3*4 and *yes* **no**", "<p>2*3*4 and <em>yes</em> <strong>no</strong></p>\n"),
        (r"so $a_1*b*c \\ \{x\}$ is", '<p>so <span class="math">$a_1*b*c \\\\ \\{x\\}$</span> is</p>\n'),
        (
            r"\(x_i*y_i*z\) \[a_b\]",
            r'<p><span class="math">\(x_i*y_i*z\)</span> <span class="math">\[a_b\]</span></p>' + "\n",
        ),
        (
            "so\n\\[\nx\n- y\n= *z*\n\\]\nend",
            '<p>so</p>\n<div class="math">\\[\nx\n- y\n= *z*\n\\]</div>\n<p>end</p>\n',
        ),
        ("$$\na\n\nb\n$$", '<div class="math">$$\na\n\nb\n$$</div>\n'),
        ("\\begin{align}\na&=_b_\n\\end{align}", '<div class="math">\\begin{align}\na&amp;=_b_\n\\end{align}</div>\n'),
        ("$$x$$ is **it**", '<p><span class="math">$$x$$</span> is <strong>it</strong></p>\n'),
        ("$5 and **10** or $6", "<p>$5 and <strong>10</strong> or $6</p>\n"),
        ("$<script>$", '<p><span class="math">$&lt;script&gt;$</span></p>\n'),
        ("[1]: http://example.org 'x'", "<p>[1]: http://example.org 'x'</p>\n"),
        ("#", "<p><code>#</code></p>\n"),
        ("```", "<p><code>```</code></p>\n"),
        ("\u200b\u2060", "<p><code>\\u200b\\u2060</code></p>\n"),
        ("", ""),
    ],
)
def test_markdown_is_rendered_and_html_is_shown(text: str, html: str) -> None:
    assert to_html(text) == html


def test_links_leave_the_page_and_images_are_links() -> None:
    found = to_html("[a](https://e.org) ![b](http://e.org/b.png)")
    assert found.count('target="_blank" rel="noopener noreferrer nofollow"') == 2
    assert "<img" not in found


def test_an_empty_answer_is_shown(annotations: Annotations) -> None:
    annotations.ask([question("", "\n ")], needed=1, deadline=None)
    shown = client(annotations).post("/state", json={"annotator": "Ann"}).json()["question"]
    assert (shown["left"], shown["right"]) == ("", "")


def test_two_clients_cannot_touch_each_others_labels(annotations: Annotations) -> None:
    """A name is the session's that first labelled under it: by its cookie, or by a header without cookies."""
    asked = questions(3)
    annotations.ask(asked, needed=2, deadline=None)
    ann, bob, again = client(annotations), client(annotations), client(annotations)
    said = {"id": "1", "question": asked[0].key, "annotator": "Ann", "choice": "tie", "comment": "mine"}
    mine = ann.post("/label", json=said)
    assert mine.status_code == 200 and {"HttpOnly", "SameSite=strict"} <= {*mine.headers["set-cookie"].split("; ")}
    for path, body in (
        ("/state", {}),
        ("/history", {}),
        ("/export", {}),
        ("/reconsider", {}),
        ("/undo", {"id": "1"}),
        ("/label", {"id": "2", "question": asked[0].key, "choice": "bad", "instead": "1"}),
        ("/label", {"id": "3", "question": asked[1].key, "choice": "bad"}),
    ):
        answer = bob.post(path, json={"annotator": "  Ann ", **body})
        assert (
            answer.status_code == 403 and "Take another name" in answer.json()["detail"] and "mine" not in answer.text
        )
    assert bob.post("/undo", json={"id": "1", "annotator": "Bob"}).status_code == 200
    assert bob.post("/label", json={**said, "id": "4", "annotator": "Bob", "instead": "1"}).status_code == 200
    assert annotations.standings(asked)[0].said == {"Ann": "tie", "Bob": "tie"}
    assert annotations.standings(asked)[1].said == {}
    assert ann.post("/history", json={"annotator": "Ann"}).json()["labels"][0]["comment"] == "mine"
    shown = {"X-Session": mine.headers["x-session"]}
    assert again.post("/state", json={"annotator": "Ann"}, headers=shown).status_code == 200
    Annotators(annotations).release("Ann")
    assert again.post("/state", json={"annotator": "Ann"}).status_code == 200
    assert ann.post("/state", json={"annotator": "Ann"}).status_code == 403


def test_history_shows_what_was_said_by_sides_and_a_label_is_changed_there(annotations: Annotations) -> None:
    asked = questions(8)
    annotations.ask(asked, needed=1, deadline=None)
    page = client(annotations)
    for k, one in enumerate(asked):
        page.post("/label", json={"id": str(k), "question": one.key, "annotator": "Ann", "choice": "left"})
    labels = page.post("/history", json={"annotator": "Ann"}).json()["labels"]
    assert [one["id"] for one in labels] == [*"76543210"] and {one["choice"] for one in labels} == {"left"}
    assert labels[0]["question"]["written"]["messages"] == ["Question 7?"]
    changed = {"id": "new", "question": asked[7].key, "annotator": "Ann", "choice": "right", "instead": "7"}
    assert page.post("/label", json=changed).status_code == 200
    first = page.post("/history", json={"annotator": "Ann"}).json()["labels"][0]
    assert (first["id"], first["choice"]) == ("new", "right")


def test_labels_are_downloaded_in_the_common_preference_format(annotations: Annotations) -> None:
    asked = questions(3)
    annotations.ask(asked, needed=1, deadline=None)
    page = client(annotations)
    for k, choice in enumerate(["left", "right", "bad"]):
        said = {"id": str(k), "question": asked[k].key, "annotator": "Ann", "choice": choice, "comment": "so"}
        page.post("/label", json=said)
    lines = page.post("/export", json={"annotator": "Ann"}).json()["lines"].splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["prompt"] for one in found] == [f"Question {k}?" for k in (0, 1, 2, 2)]
    for k, one in enumerate(found[:2]):
        best = "first" if (k == 0) == first_left(asked[k].key, "Ann") else "second"
        assert one["chosen"] == f"{best} {k}"
        assert {one["rejected"], f"{best} {k}"} == {f"first {k}", f"second {k}"}
    assert [one.get("bad", False) for one in found] == [False, False, True, True]
    assert {(one["annotator"], one["comment"]) for one in found} == {("Ann", "so")}


def test_guidelines_are_markdown_that_can_do_no_harm(annotations: Annotations) -> None:
    page = client(annotations)
    assert page.post("/guidelines", json={"annotator": "Ann"}).json() == {"html": ""}
    annotations.tell("# Be kind\n<script>x</script>")
    html = page.post("/guidelines", json={"annotator": "Ann"}).json()["html"]
    assert html == "<h1>Be kind</h1>\n<p>&lt;script&gt;x&lt;/script&gt;</p>\n"
