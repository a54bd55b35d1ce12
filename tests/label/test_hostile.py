"""A hostile page in a real browser against both servers: nothing is labelled, asked or paid, and nothing is read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from rlhf_flow.scorer.human.annotations import Annotations
from rlhf_flow.scorer.remote import schema as wire
from tests.scorer.conftest import rollouts
from tests.support.browser import Tab, chromium
from tests.support.labelling import ask, client, labelling, question
from tests.support.served import serving

pytest.importorskip("fastapi")
pytestmark = pytest.mark.browser

REBOUND = "evil.test"  # a name of the attacker's, which leads to this machine
# Every way that a page has to send something: each is tried on each address, and what can be read of it is kept.
PAGE = """<!doctype html><body><script>
const attack = async (urls, body) => {
  const read = [];
  const tried = async (name, work) => {
    try {
      const answer = await Promise.race([work(), new Promise((resolve) => setTimeout(resolve, 3000, "late"))]);
      const text = answer instanceof Response ? await answer.text() : String(answer ?? "");
      if (text && text !== "late") read.push([name, text]);
    } catch {}
  };
  const loaded = (tag, url) => new Promise((resolve) => {
    const one = document.createElement(tag);
    one.onerror = () => resolve("");
    one.onload = () => {
      let text = "";
      try { text = tag === "iframe" ? one.contentDocument.body.innerText : tag === "img" ? "an image" : ""; } catch {}
      resolve(text);
    };
    one.src = url;
    document.body.append(one);
  });
  const form = (url, enctype) => new Promise((resolve) => {
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.name = `f${Math.random()}`;
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, { method: "post", action: url, enctype, target: frame.name });
    const field = form.appendChild(document.createElement("input"));
    [field.name, field.value] = enctype === "text/plain" ? [body.slice(0, 9), body.slice(9)] : ["body", body];
    frame.onload = () => { try { resolve(frame.contentDocument.body.innerText); } catch { resolve(""); } };
    form.submit();
    setTimeout(resolve, 1500, "");
  });
  await Promise.all(urls.flatMap((url) => {
    const json = { method: "POST", body, headers: { "Content-Type": "application/json" } };
    const simple = (type) => [
      tried(`form ${type}`, () => form(url, type)),
      tried(`no-cors ${type}`, () => fetch(url, {
        method: "POST", mode: "no-cors", body, headers: { "Content-Type": type } })),
      tried(`beacon ${type}`, () => { navigator.sendBeacon(url, new Blob([body], { type })); }),
    ];
    return [
      ...["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"].flatMap(simple),
      tried("fetch", () => fetch(url, json)),
      tried("fetch with cookies", () => fetch(url, { ...json, credentials: "include" })),
      tried("no-cors json", () => fetch(url, { ...json, mode: "no-cors" })),
      tried("no type", () => fetch(url, { method: "POST", mode: "no-cors", body: new Blob([body]) })),
      ...["img", "iframe", "script"].map((tag) => tried(tag, () => loaded(tag, url))),
      tried("socket", () => new Promise((resolve) => {
        const line = new WebSocket(url.replace("http", "ws"));
        line.onopen = () => { line.send(body); resolve("a socket"); };
        line.onerror = () => resolve("");
      })),
    ];
  }));
  return read;
};
</script>"""


@contextmanager
def hostile() -> Iterator[int]:
    """The port of another server on this machine, which serves the page above."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attacked(tab: Tab, page: str, urls: list[str], body: str) -> list[list[str]]:
    """What a page there could read of all that it sent."""
    tab.open(page)
    found: list[list[str]] = tab.run(f"attack({json.dumps(urls)}, {json.dumps(body)})")
    return found


def test_a_page_of_another_origin_neither_labels_nor_asks_nor_reads(tmp_path: Path) -> None:
    (tmp_path / "chromium").mkdir()
    asked = question("a secret answer", "another secret answer")
    ask(tmp_path / "labels", [asked])
    label = json.dumps({"id": "1", "question": asked.key, "annotator": "Eve", "choice": "tie"})
    score = wire.from_rollouts(rollouts(["wait, and be paid"])).decode()  # the judge leaves a file if it is asked
    with (
        hostile() as port,
        labelling(tmp_path) as people,
        serving("scorer=rule", "scorer.function=judges.worth", "token=none", folder=tmp_path) as served,
        chromium(tmp_path / "chromium", f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1") as browser,
    ):
        judge = served.url()
        tab = browser.tab()
        for body, base, paths in (
            (label, people.url, ["/label", "/state", "/"]),
            (score, judge, ["/score", "/health"]),
        ):
            number = base.rpartition(":")[2]
            urls = [f"http://{name}:{number}{path}" for name in ("127.0.0.1", "localhost", REBOUND) for path in paths]
            for page in (f"http://127.0.0.1:{port}/", f"http://{REBOUND}:{port}/"):
                assert attacked(tab, page, urls, body) == []
            # A name that led to the attacker first, and leads here now: the page is of the server's own origin.
            tab.call("Page.navigate", url=f"http://{REBOUND}:{number}/")
            tab.until("document.readyState === 'complete' && document.body?.innerText")
            assert "Invalid host header" in tab.run("document.body.innerText")
            sent = {"method": "POST", "body": body, "headers": {"Content-Type": "application/json"}}
            statuses = [
                tab.run(f"fetch({json.dumps(path)}, {json.dumps(sent)}).then((one) => one.status)") for path in paths
            ]
            assert set(statuses) == {400}
        opened = Annotations(tmp_path / "labels")
        with opened.transaction() as file:
            counts = [
                file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("labels", "leases", "people")
            ]
        opened.close()
        assert counts == [0, 0, 0]
        assert not list(tmp_path.glob("scoring-*"))
        with client(people) as page:
            assert page.post("/state", json={"annotator": "Ann"}).json()["question"]["key"] == asked.key
        headers = {"Content-Type": "application/json"}
        fine = wire.from_rollouts(rollouts(["fine"]))
        assert httpx.post(f"{judge}/score", content=fine, headers=headers, trust_env=False).status_code == 200
