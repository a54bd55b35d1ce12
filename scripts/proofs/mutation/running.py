"""Run tests and claims on a mutated copy of the repository, each job in a process forked from this one.

This process imports slow third-party packages once. Only the children import rlhf_flow, so this process must never
import it.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, Phase, settings

from mutation.imports import module, named_after
from mutation.operators import Mutant

COPIED = ("rlhf_flow", "configs", "tests", "pyproject.toml")
WARM = ("hydra", "hypothesis.extra.numpy", "numpy", "omegaconf", "pyarrow.parquet", "safetensors.torch", "torch")
MEMORY = 16 << 30  # address space of a child in bytes: stops a mutant that allocates without end
PATIENCE = 20  # wall seconds for each second of processor time: the machine may be busy


@dataclass(frozen=True)
class Job:
    """Tests and claims that run in one process until one of them fails."""

    asked: tuple[str, ...]  # the paths of test files; claims, as rlhf_flow/verify/claims/dno.py:V7a
    limit: float  # seconds of processor time
    mutant: Mutant | None = None


@dataclass(frozen=True)
class Outcome:
    red: str  # the first test or claim that failed, or how the process died; "" if all passed
    seconds: float  # of processor time
    late: bool = False  # it reached its time limit


class Tree:
    """A copy of the repository, which holds one mutant at a time. Next to it are the child's log and other files."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.log, self.red, self.scratch = (folder.with_suffix(suffix) for suffix in (".log", ".red", ".tmp"))
        self._number = 0
        folder.mkdir()
        for name in COPIED:
            if (root / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(root / name, folder / name, symlinks=True, ignore=ignored)
            elif (root / name).exists():
                shutil.copy(root / name, folder / name)

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def hold(self, mutant: Mutant) -> None:
        path = self.folder / mutant.path
        self._held = path, path.read_bytes(), path.stat().st_mtime_ns
        self._number += 1
        path.write_text(mutant.source, encoding="utf-8")
        os.utime(path, (self._number, self._number))  # stale bytecode is found by mtime, in whole seconds

    def restore(self) -> None:
        path, original, time_ns = self._held
        path.write_bytes(original)
        os.utime(path, ns=(time_ns, time_ns))


class Child:
    """A process that runs a job."""

    def __init__(self, job: Job, tree: Tree, seed: int) -> None:
        self.job, self.tree, self._began = job, tree, time.monotonic()
        if job.mutant is not None:
            tree.hold(job.mutant)
        tree.red.unlink(missing_ok=True)
        self.pid = os.fork()
        if not self.pid:
            _work(job, tree, seed)

    def outcome(self) -> Outcome | None:
        """The outcome; None while the process runs."""
        late = time.monotonic() - self._began > PATIENCE * self.job.limit
        if late:
            self.kill()
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return None
        if self.job.mutant is not None:
            self.tree.restore()
        ended, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if ended == 0:
            return Outcome(self.tree.red.read_text(encoding="utf-8"), seconds)
        if late or ended == -signal.SIGXCPU:
            return Outcome(f"timed out after {seconds:.0f} s", seconds, late=True)
        return Outcome(f"the process ended with {ended}", seconds)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Watcher:
    """A plugin of pytest that records the first test that failed."""

    red = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._see(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._see(report)

    def _see(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            self.red = self.red or report.nodeid


def warm_up() -> None:
    """Import what the children need, except rlhf_flow."""
    for name in WARM:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()
    assert "rlhf_flow" not in sys.modules, "the children would not import the mutants"


def run(jobs: Iterable[Job], trees: Sequence[Tree], seed: int) -> Iterator[tuple[Job, Outcome, Tree]]:
    """Yield each job with its outcome when it ends. Each tree runs one job at a time."""
    idle, waiting = list(trees), iter(jobs)
    children: list[Child] = []
    try:
        while True:
            while idle and (job := next(waiting, None)):
                children.append(Child(job, idle.pop(), seed))
            if not children:
                return
            for child in list(children):
                if outcome := child.outcome():
                    children.remove(child)
                    yield child.job, outcome, child.tree
                    idle.append(child.tree)
            time.sleep(0.01)
    finally:
        for child in children:
            child.kill()
            os.waitpid(child.pid, 0)


def _work(job: Job, tree: Tree, seed: int) -> NoReturn:
    """Run the job in the child, write the first failure to a file, and exit."""
    status = 1
    try:
        log = os.open(tree.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        limit = int(job.limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ.pop("PYTEST_ADDOPTS", None)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.chdir(tree.folder)
        sys.path.insert(0, str(tree.folder))
        tree.red.write_text(_first_red(job, tree, seed), encoding="utf-8")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _first_red(job: Job, tree: Tree, seed: int) -> str:
    for tests in _steps(job):
        watcher = Watcher()
        status = pytest.main([*_options(tree, seed, short=job.mutant is not None), *tests], plugins=[watcher])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return watcher.red or f"pytest ended with {int(status)}"
    for asked in job.asked:
        path, _, name = asked.partition(":")
        if name and (broken := _broken(module(path), name, seed)):
            return f"{name}: {broken}"
    return ""


def _steps(job: Job) -> Iterator[list[str]]:
    """The arguments of pytest, step by step: tests whose name has the file's, the others of its folder, the rest."""
    tests = [asked for asked in job.asked if ":" not in asked]
    near: list[str] = []
    if job.mutant is not None:
        named = PurePosixPath(named_after(job.mutant.path))
        near = [test for test in tests if PurePosixPath(test).parent == named.parent]
        if near:
            yield [*near, "-k", named.stem.removeprefix("test_")]
    yield from filter(None, (near, [test for test in tests if test not in near]))


def _broken(claims: str, name: str, seed: int) -> str:
    """The first finding of a claim that does not hold."""
    try:
        claim = next(claim for claim in importlib.import_module(claims).CLAIMS if claim.id == name)
        return next((finding.what for finding in claim.check(seed) if not finding.holds), "")
    except Exception as error:  # a mutant may break in any way
        return f"{type(error).__name__}: {error}"


def _options(tree: Tree, seed: int, *, short: bool) -> list[str]:
    settings.register_profile(
        "mutants",
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),  # no shrinking: only the failure counts
        report_multiple_bugs=False,
        suppress_health_check=(HealthCheck.too_slow,),
    )
    settings.load_profile("mutants")
    return [
        *(
            "-x",
            "-q",
            "--no-header",
            f"--tb={'no' if short else 'short'}",
            "-m",
            "not soak and not ray and not vllm and not deepspeed",
        ),
        *("-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
        *("-p", "no:unraisableexception"),  # it collects garbage ten times at the end, which takes 0.4 s
        *("-c", str(tree.folder / "pyproject.toml"), "--rootdir", str(tree.folder), "--basetemp", str(tree.scratch)),
        f"--hypothesis-seed={seed}",
    ]
