"""The report in a real browser, opened from disk. Skipped where there is no Chromium."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_flow import report
from tests.support.browser import CHROMIUM, chromium

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--dump-dom"),
]
RUN = "document.documentElement.setAttribute('data-ran', 'yes')"
PLANTED = (
    f"</div></pre></style></title></svg><script>{RUN}</script>"
    f'<img src=x onerror="{RUN}"><svg onload="{RUN}">"\' onload={RUN}'
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page after its scripts ran, and what it said on the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def ran(dom: str) -> bool:
    """Whether the planted script marked the page."""
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None
    return "data-ran" in root.group()


def test_nothing_that_was_planted_runs_and_the_page_has_no_errors(
    make_run: Callable[..., Path], good_run: Path, tmp_path: Path
) -> None:
    row = {"prompt_id": PLANTED, "prompt": PLANTED, "start": PLANTED, "answer": PLANTED, "win": 0.2, "utility": 1.0}
    line = {f"eval/aspect/{PLANTED}": 0.5, f"pairs/{PLANTED}": 3.0, "eval/win_rate": 0.6}
    rows = {1: [row | {"start_utility": 0.5, "length": 3, "truncated": False}]}
    path = report.write(make_run([{}, line], rows, name="planted", note=PLANTED.replace('"', '\\"')))

    canary = tmp_path / "canary.html"
    canary.write_text(f"<html><body>{PLANTED}", encoding="utf-8")
    assert ran(opened(canary, tmp_path / "first")[0]), "the browser runs what is not escaped"

    dom, console = opened(path, tmp_path / "second")
    assert not ran(dom)
    assert console == []
    assert "Before" in dom

    bare = tmp_path / "bare.html"  # without the policy that forbids scripts: escaping alone has to do
    text, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
    assert removed == 1
    bare.write_text(text, encoding="utf-8")
    dom, console = opened(bare, tmp_path / "third")
    assert not ran(dom)
    assert console == []
    assert opened(report.write(good_run), tmp_path / "fourth")[1] == []


def test_no_number_is_cut_at_the_edge_of_its_chart(fooled_run: Path, good_run: Path, tmp_path: Path) -> None:
    lines = (fooled_run / "metrics.jsonl").read_text(encoding="utf-8")
    (fooled_run / "metrics.jsonl").write_text(re.sub(r'("eval/proxy_gap": )', r"\1-", lines), encoding="utf-8")
    outside = """[...document.querySelectorAll("svg text")].filter(text => {
        const box = text.getBBox(), view = text.ownerSVGElement.viewBox.baseVal;
        return box.x < 0 || box.x + box.width > view.width;
    }).map(text => text.ownerSVGElement.getAttribute("aria-label") + " | " + text.textContent)"""
    with chromium(tmp_path) as browser:
        tab = browser.tab()
        tab.call("Page.setBypassCSP", enabled=True)
        for page in (report.write(fooled_run), report.write_comparison([fooled_run, good_run])):
            tab.open(page.as_uri())
            assert tab.run("document.querySelectorAll('svg text').length") > 100
            assert tab.run(outside) == []
