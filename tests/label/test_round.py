"""A round of the sandbox world, labelled to its end by two people in a real browser while the run waits for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drill import LOCAL, SMALL

from rlhf_flow.sandbox.build import build
from tests.support.browser import Tab, chromium
from tests.support.labelling import labelling

pytest.importorskip("fastapi")
pytestmark = [pytest.mark.browser, pytest.mark.soak]  # in short: tests/cli/test_label.py and test_page.py

READY = "!document.querySelector('#ask').hidden && !document.querySelector('[aria-disabled]')"
RESTING = "!document.querySelector('#rest').hidden"
WAIT = 600.0  # seconds for the whole round
RUN = (
    *SMALL,
    *LOCAL,
    "scorer=human",
    "evaluate.proxy=false",
    "rounds=1",
    "prompts.batch=8",
)


def join(tab: Tab, url: str, name: str) -> None:
    tab.open(url)
    tab.until("!document.querySelector('#join').hidden")
    tab.type("#name", name)
    tab.click("#join button")


def shorter(tab: Tab) -> str:
    """The key of the answer with fewer letters."""
    left, right = (len(str(tab.run(f"document.querySelector('#{side}').innerText"))) for side in ("left", "right"))
    return "=" if left == right else "1" if left < right else "2"


@pytest.mark.timeout(900)
def test_two_people_label_a_round_to_the_end(tmp_path: Path) -> None:
    build()
    (tmp_path / "chromium").mkdir()
    folder, log = tmp_path / "run", tmp_path / "log"
    with chromium(tmp_path / "chromium") as browser, log.open("wb") as told:
        run = subprocess.Popen([sys.executable, "-m", "rlhf_flow", "run", *RUN, f"run_dir={folder}"], stdout=told)
        try:
            end = time.monotonic() + WAIT
            while not (folder / "labels").exists():
                assert run.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            with labelling(folder) as server:
                people = {name: browser.tab() for name in ("Ann", "Bob")}
                for name, tab in people.items():
                    join(tab, server.url, name)
                while run.poll() is None:
                    assert time.monotonic() < end, log.read_text()
                    for tab in people.values():
                        if tab.run(READY):
                            tab.press(shorter(tab))
                    time.sleep(0.2)
                assert all(tab.complaints() == [] for tab in people.values())
        finally:
            run.kill()
            run.wait()
    assert run.returncode == 0, log.read_text()
    (_, told_of) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    pairs = {name: number for name, number in told_of.items() if name.startswith("pairs/")}
    assert sum(pairs.values()) == 8
    assert told_of["judge/queries"] + told_of["judge/cached"] == 8 - pairs.get("pairs/identical", 0)
    assert told_of["judge/abstained"] == told_of["judge/overdue"] == 0
