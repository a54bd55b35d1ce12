"""A headless Chromium, driven by its own protocol: real pages, clicks and keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--no-proxy-server", "--window-size=1280,900", "--remote-debugging-port=0", "about:blank"),
]
WAIT = 60.0  # seconds; on a busy machine a page takes its time


class RefusedError(AssertionError):
    """What the browser says to a call that it does not carry out."""


class Browser:
    """One browser. Each `tab` has a profile of its own, as another person's browser would."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=None, proxy=None)
        self._calls = 0
        self._profiles: list[str] = []
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, *, session: str | None = None, **params: Any) -> Any:
        """What the browser answers; events that come before are kept."""
        self._calls += 1
        call = {"id": self._calls, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._socket.send(json.dumps(call))
        while True:
            told = json.loads(self._socket.recv(timeout=WAIT))
            if told.get("id") == self._calls:
                if "error" in told:
                    raise RefusedError(f"{method}: {told['error']['message']}")
                return told["result"]
            if "method" in told:
                self.events.append(told)

    def tab(self) -> Tab:
        context = self.call("Target.createBrowserContext")["browserContextId"]
        self._profiles.append(context)
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        return tab

    def close_tabs(self) -> None:
        while self._profiles:
            self.call("Target.disposeBrowserContext", browserContextId=self._profiles.pop())

    def close(self) -> None:
        self._socket.close()


@dataclass
class Tab:
    """A page that someone looks at."""

    browser: Browser
    session: str

    def call(self, method: str, **params: Any) -> Any:
        return self.browser.call(method, session=self.session, **params)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression holds, and return its value."""
        end = time.monotonic() + WAIT
        while not (value := self._tried(script)):
            assert time.monotonic() < end, (
                f"{script} never held; the page says: {self._tried('document.body.innerText')}"
            )
            time.sleep(0.03)
        return value

    def _tried(self, script: str) -> Any:
        """None while the page is being replaced by another."""
        try:
            done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        except RefusedError as error:
            if "navigated" not in str(error):  # in the middle of the replacement
                raise
            return None
        return None if "exceptionDetails" in done else done["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def reload(self) -> None:
        self.run("window.before = true")
        self.call("Page.reload")
        self.until("!window.before && document.readyState === 'complete'")

    def back(self) -> None:
        history = self.call("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]
        self.call("Page.navigateToHistoryEntry", entryId=entry["id"])
        self.until(f"location.href === {json.dumps(entry['url'])} && document.readyState === 'complete'")

    def click(self, selector: str, *counts: int) -> None:
        """As a mouse does, in the middle of it. `counts`: 1, 2 is a double click; by default one click."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for count in counts or (1,):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def press(self, key: str, code: str = "", modifiers: int = 0) -> None:
        """A key by what is on it, and by its place on the keyboard. Modifiers: 1 Alt, 2 Control, 4 Meta, 8 Shift."""
        which = {"key": key, "code": code, "modifiers": modifiers}
        types = {"text": key} if len(key) == 1 and modifiers in (0, 8) else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **types, **which)
        self.call("Input.dispatchKeyEvent", type="keyUp", **which)

    def type(self, selector: str, text: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def complaints(self) -> list[str]:
        """What went wrong in the page so far: errors, and what its policy forbade."""
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        wrong = [event for event in mine if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return [json.dumps(event["params"]) for event in wrong if "ERR_CONNECTION" not in json.dumps(event["params"])]


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Browser]:
    """A browser of its own. The test is skipped where there is none, or no way to speak with it."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    pytest.importorskip("websockets")
    port = profile / "DevToolsActivePort"
    command = [CHROMIUM, f"--user-data-dir={profile}", *flags, *FLAGS]
    with (profile / "said.txt").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        end = time.monotonic() + WAIT
        while not port.is_file() or len(port.read_text().split()) < 2:
            assert process.poll() is None and time.monotonic() < end, (profile / "said.txt").read_text()
            time.sleep(0.05)
        number, path = port.read_text().split()
        browser = Browser(f"ws://127.0.0.1:{number}{path}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.kill()
        process.wait()
