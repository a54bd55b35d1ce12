"""One browser and one server for all tests of the page."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_flow.scorer.human.annotations import FILE
from tests.support.browser import Browser, chromium
from tests.support.labelling import Server, labelling


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def browser(chrome: Browser) -> Iterator[Browser]:
    yield chrome
    chrome.close_tabs()  # nobody looks on at the questions of the next test


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = tmp_path_factory.mktemp("run")
    (run / "labels").mkdir()
    with labelling(run) as opened:
        yield opened


@pytest.fixture
def labels(server: Server) -> Path:
    """The server's folder, with nothing in it: a process takes longer to start than a table to empty."""
    file = sqlite3.connect(server.run / "labels" / FILE, isolation_level=None)
    for table in ("questions", "labels", "leases", "people", "facts"):
        file.execute(f"DELETE FROM {table}")
    file.close()
    return server.run / "labels"
