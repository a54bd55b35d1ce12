"""Crash drill: kill each process of a run with SIGKILL at each stage, resume the run, and compare the hashes.

    python scripts/proofs/drill.py --stack local  # the driver, in the middle and at the end of every stage; one process
    python scripts/proofs/drill.py --stack ray    # also engine, scorer and every learner rank while they work
    python scripts/proofs/drill.py --stack ray --cases driver:learn engine-0:sample
    python scripts/proofs/drill.py --stack ray --cases driver:learn learner-0:learn -- learner=torch

A case is <victim>:<stage>[:end]. The victim is killed in the middle of that stage of round 2, or right after its
commit. The uninterrupted run and the resumed one must agree in every policy, the hash of every committed file, and
every metric except seconds. Exit status 1 if they differ, if a process survives, or if the run does not report a
worker's death.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from rlhf_flow.config.compose import compose

STAGES = ("sample", "score", "select", "anchor", "learn", "publish", "evaluate")
SMALL = (
    "experiment=sandbox",
    "rounds=2",
    "prompts.batch=16",
    "prompts.held_out_path=null",
    "prompts.held_out=8",
    "answers.n=2",
    "answers.max_tokens=24",
    "selector.truncated=keep",
    "checkpoint.prompts_per_commit=4",
    "learner.training.batch=4",
    "observe.console=false",
)
LOCAL = ("cluster=local", "engine=huggingface", "learner=torch")
RAY = ("cluster.fault_tolerance.deaths=0",)  # any death stops the run: the drill tests resuming
SHARES = (0.5, 0.25, 0.1)  # of a stage's time, after which a process is killed; the next if that was too late
LATE = "its part was done before it was killed"
PATIENCE = 300.0  # timeout in seconds of a run that neither ends nor reaches the stage


def start(root: Path, command: list[str]) -> int:
    """Fork a process that runs the command; return its pid. No library may have started threads before."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    log = os.open(root.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from rlhf_flow.cli.main import main

    status = 1
    try:
        status = main([*command, f"run_dir={root}"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def workers_of(driver: int) -> Iterator[tuple[str, psutil.Process]]:
    """The worker processes of a run: (engine-0, its process), ..."""
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("RLHF_FLOW_DRIVER") == str(driver)
            title = " ".join(process.cmdline()).strip() if ours else ""  # ray::engine_0.call; when idle, padded
        except (psutil.Error, OSError):
            continue
        if title.startswith("ray::") and "_" in title:
            yield title.removeprefix("ray::").partition(".")[0].replace("_", "-"), process


def worker(driver: int, name: str) -> psutil.Process:
    """The worker of that name. Retries for 10 s, because Ray changes the title of a worker at every call."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        for found, process in workers_of(driver):
            if found == name:
                return process
    raise LookupError(f"run {driver} has no worker {name}, but {[found for found, _ in workers_of(driver)]}")


def ended(pid: int) -> int | None:
    """The exit status of a child, None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait_for(pid: int, path: Path | None) -> int | None:
    """Wait until `path` exists (returns None) or the process has ended (returns its status)."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if path is not None and path.exists():
            return None
        status = ended(pid)
        if status is not None:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    raise TimeoutError(f"the run neither ended nor committed {path} within {PATIENCE:.0f} s")


def outcome(root: Path) -> dict[str, object]:
    records = [json.loads(path.read_text()) for path in sorted(root.glob("rounds/*/record.json"))]
    return {
        "policies": [record["policy"] for record in records],
        "files": [record["files"] for record in records],
        "metrics": [
            {key: value for key, value in record["metrics"].items() if not key.startswith("seconds/")}
            for record in records
        ],
        "final": json.loads((root / "final.json").read_text())["sha256"],
    }


def seconds(root: Path, stage: str) -> float:
    return float(json.loads((root / f"rounds/00002/stages/{stage}.json").read_text())["seconds"])


def killed(case: str, root: Path, command: list[str], whole: Path) -> str:
    """Run, kill as the case says, and wait for the end of the run. Return what went wrong, or nothing.

    On a busy machine the timing varies. If a worker had already finished its part of the stage, its death has no
    effect; the case then starts again with an earlier kill.
    """
    for share in SHARES:
        wrong = kill(case, root, command, whole, share=share)
        if wrong != LATE:
            return wrong
        shutil.rmtree(root)
    return f"{LATE}, even {SHARES[-1]:g} of the stage after its beginning"


def kill(case: str, root: Path, command: list[str], whole: Path, *, share: float) -> str:
    victim, stage, *at = case.split(":")
    before = "rounds/00001/record.json" if stage == "sample" else f"rounds/00002/stages/{_previous(stage)}.json"
    trigger = f"rounds/00002/stages/{stage}.json" if at else before
    pid = start(root, command)
    status = wait_for(pid, root / "rounds/00001/record.json")
    if status is None:  # every worker is up by now; looking through all processes would take too long later
        process = psutil.Process(pid) if victim == "driver" else worker(pid, victim)
        status = wait_for(pid, root / trigger)
    if status is not None:
        return f"the run ended with {status} before {trigger} was there"
    if not at:
        time.sleep(share * seconds(whole, stage))
    process.kill()
    status = wait_for(pid, None)
    left = [f"{name} ({process.pid})" for name, process in _after_a_while(pid)]
    if left:
        return f"still alive after the kill: {', '.join(left)}"
    if victim == "driver":
        return "" if status == -signal.SIGKILL else f"the driver should have ended by SIGKILL, but ended with {status}"
    if status == 0:
        return LATE
    told = root.with_suffix(".log").read_text()
    name = victim.rpartition("-")[0]
    return "" if status == 1 and f"the process of {name}" in told else f"its death was not reported: status {status}"


def _previous(stage: str) -> str:
    return STAGES[STAGES.index(stage) - 1]


def _after_a_while(driver: int) -> list[tuple[str, psutil.Process]]:
    """Workers that outlive their driver by half a minute. Kills them, so that the next case has the machine."""
    for _ in range(60):
        left = list(workers_of(driver))
        if not left:
            return []
        time.sleep(0.5)
    for _, process in left:
        process.kill()
    return left


def drill(command: list[str], cases: list[str], folder: Path) -> int:
    whole = folder / "whole"
    began = time.monotonic()
    status = wait_for(start(whole, command), None)
    if status != 0:
        print(whole.with_suffix(".log").read_text()[-3000:])
        raise SystemExit(f"the uninterrupted run ended with {status}")
    expected = outcome(whole)
    print(f"uninterrupted: {expected['final']}, {time.monotonic() - began:.0f} s", flush=True)
    failed = 0
    for number, case in enumerate(cases, start=1):
        root, began = folder / case.replace(":", "-"), time.monotonic()
        wrong = killed(case, root, command, whole)
        status = wait_for(start(root, command), None)
        if status != 0:
            wrong = f"{wrong} the resumed run ended with {status}: {root.with_suffix('.log').read_text()[-2000:]}"
        elif outcome(root) != expected:
            found = outcome(root)
            wrong = f"{wrong} differing after resume: {', '.join(key for key in found if found[key] != expected[key])}"
        failed += bool(wrong)
        verdict = wrong or "equal"
        print(f"{number}/{len(cases)} {case}: {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} cases ended in the same hashes, without orphans")
    return 1 if failed else 0


def every_case(stack: str, ranks: int) -> list[str]:
    driver = [f"driver:{stage}{end}" for stage in STAGES for end in ("", ":end")]
    if stack == "local":
        return driver
    learners = [f"learner-{rank}:{stage}" for rank in range(ranks) for stage in ("anchor", "learn", "evaluate")]
    return [*driver, "engine-0:sample", "engine-0:evaluate", "scorer-0:score", *learners]


def run_of(stack: str, overrides: Sequence[str]) -> list[str]:
    """The overrides of every run. Learners have two ranks on Ray, except `torch`, which has one."""
    if stack == "local":
        return [*SMALL, *LOCAL, *overrides]
    return [*SMALL, *RAY, f"learner.ranks={1 if 'learner=torch' in overrides else 2}", *overrides]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", choices=("local", "ray"), default="ray")
    parser.add_argument("--cases", nargs="+", help="default: all")
    parser.add_argument("overrides", nargs="*", help="of every run, after --")
    asked = parser.parse_args()
    run = run_of(asked.stack, asked.overrides)
    ranks = compose(*run).learner.ranks
    # Import here, once, what every run imports (not Ray, vLLM or DeepSpeed). A case then takes seconds.
    import transformers.models.llama.modeling_llama  # noqa: F401

    import rlhf_flow.runner.prepare  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        return drill(["run", *run], asked.cases or every_case(asked.stack, ranks), Path(folder))


if __name__ == "__main__":
    sys.exit(main())
