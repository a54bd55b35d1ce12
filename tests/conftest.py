"""What the whole suite shares: its tiers, how tests are spread over processes, and what CI demands."""

from __future__ import annotations

import gc
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Each process of the suite computes in one thread, before anything imports torch: as many processes as cores run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("suite", deadline=None, max_examples=25)  # other tests take the cores meanwhile
settings.load_profile("suite")

ORDER = ("soak", "vllm", "deepspeed", "ray", "browser", "slow", "unit")
TIERS = ORDER[:-1]  # each is a mark; a test without any of them is a unit test
FILE_MARKS = re.compile(r"^pytestmark = (\[[^\]]*\]|.*)", re.MULTILINE)
STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slowest", type=int, default=0, metavar="N", help="print the N slowest tests")
    parser.addoption("--budget", type=int, default=0, metavar="S", help="print the time of each tier beside S seconds")


# -- tiers ------------------------------------------------------------------------------------------------------------


def tier(marks: set[str]) -> str:
    """The tier of a test: the first one that marks it."""
    return next((each for each in TIERS if each in marks), "unit")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import a file whose `pytestmark` deselects all of its tests: all imports take 20 s per process."""
    expression = config.getoption("markexpr")
    if collection_path.suffix != ".py" or not re.fullmatch(r"not \w+( and not \w+)*", expression):
        return None
    named = {(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args}
    if collection_path in named:
        return None
    found = FILE_MARKS.search(collection_path.read_text(encoding="utf-8"))
    marks = set(re.findall(r"mark\.(\w+)", found[1])) & set(TIERS) if found else set()
    if marks:
        marks.add("slow")
    return True if marks & set(re.findall(r"not (\w+)", expression)) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    if tier({mark.name for mark in item.iter_markers()}) != "unit":
        item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)  # before -m deselects tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the slowest tiers first: the many short ones that follow keep all workers busy to the end."""
    ranks = defaultdict[Path, list[int]](list)
    for item in items:
        ranks[item.path].append(ORDER.index(tier({mark.name for mark in item.iter_markers()})))
    items.sort(key=lambda item: min(ranks[item.path]))


def pytest_collection() -> None:
    gc.disable()  # what is imported stays: collecting garbage among it takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # the interpreter frees it at its end; nanobind's extensions warn of leaks otherwise


# -- CI ---------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    return has_packages((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    return has_packages((yield))


def has_packages(report: pytest.TestReport | pytest.CollectReport) -> pytest.TestReport | pytest.CollectReport:
    """In CI, a test that is skipped because a package is missing fails: the environment is wrong."""
    if os.environ.get("CI") and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if re.search("could not import|not installed", reason):
            report.outcome, report.longrepr = "failed", f"{reason}. If CI is set, a missing package is a failure."
    return report


# -- the end ----------------------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The slowest tests and, of each tier, how many tests it has and how many seconds they took."""
    number, budget = config.getoption("--slowest"), config.getoption("--budget")
    seconds, tiers = defaultdict[str, float](float), dict[str, str]()
    for report in reports(terminalreporter):
        seconds[report.nodeid] += report.duration
        tiers[report.nodeid] = tier(set(report.keywords))
    if number:
        terminalreporter.section(f"the {number} slowest tests: seconds with set-up and tear-down")
        for test in sorted(seconds, key=lambda test: -seconds[test])[:number]:
            terminalreporter.write_line(f"{seconds[test]:8.1f}  {test}")
    if budget:
        terminalreporter.section("tiers")
        for each in reversed(ORDER):
            found = [seconds[test] for test in tiers if tiers[test] == each]
            if found:
                terminalreporter.write_line(f"{each}: {len(found)} tests, {sum(found):.0f} s of the workers")
        terminalreporter.write_line(f"in all {time.monotonic() - STARTED:.0f} s; the budget on two cores is {budget} s")


def reports(terminalreporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    for some in terminalreporter.stats.values():
        yield from (report for report in some if isinstance(report, pytest.TestReport))
