"""What the whole suite shares: how tests are spread over processes, and what each tier takes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Each process of the suite computes in one thread, before anything imports torch: as many processes as cores run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("suite", deadline=None)  # beside another test, a moment lasts longer
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slowest", type=int, default=0, metavar="N", help="print the N slowest tests and both tiers")


@pytest.hookimpl(tryfirst=True)  # before -m takes heavy tests away
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with heavy tests first: the many short ones that follow keep all workers busy to the end."""
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: item.path not in heavy)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The slowest tests and, of each tier, how many tests it has and how many seconds they took."""
    number = config.getoption("--slowest")
    if not number:
        return
    seconds, tiers = defaultdict[str, float](float), dict[str, str]()
    for report in reports(terminalreporter):
        seconds[report.nodeid] += report.duration
        tiers[report.nodeid] = "heavy" if "heavy" in report.keywords else "light"
    terminalreporter.section(f"the {number} slowest tests: seconds with set-up and tear-down")
    for test in sorted(seconds, key=lambda test: -seconds[test])[:number]:
        terminalreporter.write_line(f"{seconds[test]:8.1f}  {test}")
    terminalreporter.section("tiers")
    for tier in ("light", "heavy"):
        found = [seconds[test] for test in tiers if tiers[test] == tier]
        terminalreporter.write_line(f"{tier}: {len(found)} tests, {sum(found):.0f} s")


def reports(terminalreporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    for some in terminalreporter.stats.values():
        yield from (report for report in some if isinstance(report, pytest.TestReport))
