"""Chaos test: inject faults into a run on several raylets, and compare its result with that of an undisturbed run.

There are eight kinds of fault: SIGKILL for an engine, a scorer, a learner rank, the driver or a whole raylet, SIGSTOP
for a worker, which then hangs, a full disk, and a scorer server that is down for a while. They come in decks, shuffled
by a seed, that hold each kind once. If the run stops, the script starts the same command again. In the end, every
prompt of every round must have been answered exactly once, and all responses, pairs and weights must equal those of the
undisturbed run.

    python scripts/proofs/chaos.py --minutes 30
    python scripts/proofs/chaos.py --decks 1    # every kind of fault once, however long it takes
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import psutil
import pyarrow.parquet as pq
from drill import SMALL, workers_of
from nodes import NODE, hashes, raylets

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

RUN = (  # small rounds on the sandbox world: the cluster is under test
    *SMALL,
    "engine=huggingface",  # restarts in seconds; with batch=1 no float sum depends on other answers
    "engine.batch=1",
    "engine.threads=1",  # as for the learner: another number of threads sums in another order
    "checkpoint.prompts_per_commit=8",
    "learner.ranks=2",
    "learner.training.threads=1",
    "learner.training.batch=8",
    "cluster.prompts_per_task=2",
    "scorer.retries=60",
)
PATIENT = ("cluster.fault_tolerance.silence_seconds=10", "cluster.fault_tolerance.deaths=1000000")
SPREAD = ("cluster.engines=2", "cluster.scorers=2", *PATIENT)
NODES = 3
PATIENCE = 600.0  # seconds without a new record, after which the run counts as stuck


@dataclass
class Server:
    """`rlhf-flow serve` in its own process, which can be stopped and started again at the same port."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [sys.executable, "-m", "rlhf_flow", "serve", "scorer=sandbox", f"port={self.port}", "token=none"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return
            time.sleep(0.2)
        raise TimeoutError("the judge's server does not come up")

    def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Chaos:
    """A run with fault injection: its nodes, its scorer server, its folder."""

    folder: Path  # of the run
    log: Path
    command: list[str]
    cluster: Cluster
    judge: Server
    chance: random.Random
    full: bool  # whether the folder is on its own disk, which may be filled
    kinds: Sequence[str] = ()  # of faults; none: all
    driver: subprocess.Popen[bytes] | None = None
    # by kind of fault: seconds from the beginning of each fault to the first commit of the run after it
    recovered: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    starts: int = 0

    def disturb(self, seconds: float, rounds: int, decks: int | None) -> None:
        """Inject faults for `seconds`, or until the run has `rounds` rounds, or for `decks` decks and one round."""
        faults: dict[str, Callable[[], bool]] = {
            **{role: partial(self._kill, role) for role in ("engine", "scorer", "learner")},
            "stop": lambda: self._kill(self.chance.choice(["engine", "scorer", "learner"]), signal.SIGSTOP),
            "driver": self._kill_driver,
            "raylet": self._lose_node,
            "judge": self._cut_judge,
            **({"disk": self._fill_disk} if self.full else {}),
        }
        faults = {kind: fault for kind, fault in faults.items() if not self.kinds or kind in self.kinds}
        self._wait_until(partial(self._committed, 1))  # until it is up
        deck = islice(dealt(sorted(faults), self.chance), None if decks is None else decks * len(faults))
        kind, end = next(deck, None), time.monotonic() + seconds
        while kind is not None and time.monotonic() < end and len(records(self.folder)) <= rounds:
            began = time.monotonic()
            if faults[kind]():
                self._wait_until(partial(self._committed, commits(self.folder) + 1))
                self.recovered[kind].append(time.monotonic() - began)
                print(f"{kind}: {self.recovered[kind][-1]:.1f} s", flush=True)
                kind = next(deck, None)
            self._alive()
            time.sleep(self.chance.uniform(0, 4))
        if kind is None:
            self._wait_until(lambda: len(records(self.folder)) > 1)

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def _committed(self, number: int) -> bool:
        """Whether at least this number of stages and parts of stages is committed."""
        return commits(self.folder) >= number

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`. Start the run again if it has ended meanwhile."""
        end = time.monotonic() + PATIENCE
        while not holds():
            self._alive()
            if time.monotonic() > end:
                raise TimeoutError(f"the run is stuck. Its log ends with:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def _alive(self) -> None:
        if self.driver is None or (self.driver.poll() is not None and not (self.folder / "final.json").exists()):
            with self.log.open("ab") as log:
                command = [sys.executable, "-m", "rlhf_flow", *self.command, f"run_dir={self.folder}"]
                self.driver = subprocess.Popen(command, stdout=log, stderr=log)
            self.starts += 1

    # -- faults: each returns whether there was a process to disturb --------------------------------------------------

    def _kill(self, role: str, how: int = signal.SIGKILL) -> bool:
        found = [process for name, process in workers_of(os.getpid()) if name.startswith(role)]
        if found:
            with suppress(psutil.Error):
                self.chance.choice(sorted(found, key=lambda process: process.pid)).send_signal(how)
        return bool(found)

    def _kill_driver(self) -> bool:
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()
        return True

    def _lose_node(self) -> bool:
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id)
        self.cluster.remove_node(self.chance.choice(nodes), allow_graceful=False)
        self.cluster.add_node(**NODE)
        return True

    def _cut_judge(self) -> bool:
        self.judge.stop()
        time.sleep(self.chance.uniform(1, 5))
        self.judge.start()
        return True

    def _fill_disk(self) -> bool:
        filler = self.folder.parent / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(self.chance.uniform(1, 5))
        filler.unlink()
        return True


def dealt(kinds: Sequence[str], chance: random.Random) -> Iterator[str]:
    """An endless sequence of shuffled decks; each deck holds every kind once."""
    while True:
        yield from chance.sample(kinds, len(kinds))


def commits(run: Path) -> int:
    """How many stages and parts of stages a run has committed."""
    return sum(1 for _ in run.glob("rounds/*/stages/*.json"))


def records(run: Path) -> list[Path]:
    return sorted(run.glob("rounds/*/record.json"))


def accounts(run: Path, rounds: int) -> list[Counter[str]]:
    """How often each response of each round was committed."""
    counted = []
    for round in range(1, rounds + 1):
        tables = sorted((run / f"rounds/{round:05d}/responses").glob("*.parquet"))
        ids = [id for table in tables for id in pq.read_table(table, columns=["response"])["response"].to_pylist()]
        counted.append(Counter(ids))
    return counted


@contextmanager
def disk(folder: Path, mib: int = 512) -> Iterator[bool]:
    """Mount a small disk at the folder; yields whether this process was allowed to."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], capture_output=True)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--decks", type=int, help="how often each kind of fault is injected, instead of --minutes")
    parser.add_argument("--kinds", nargs="+", default=(), help="kinds of faults (default: all)")
    parser.add_argument("--rounds", type=int, default=1000, help="maximum rounds of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="file for the output of the run")
    asked = parser.parse_args()
    judge = Server(free_port())
    run = [
        "run",
        *RUN,
        "scorer=remote",
        f"scorer.urls=[http://127.0.0.1:{judge.port}]",
        "scorer@evaluate.scorer=sandbox",
    ]
    with tempfile.TemporaryDirectory() as name, closing(judge):
        folder, log = Path(name), asked.log or Path(name) / "chaos.log"
        (folder / "disk").mkdir()
        with disk(folder / "disk") as full, raylets(NODES) as cluster:
            chaos = Chaos(
                folder=folder / "disk" / "run",
                log=log,
                command=[*run, *SPREAD, f"cluster.address={cluster.address}", f"rounds={asked.rounds}"],
                cluster=cluster,
                judge=judge,
                chance=random.Random(asked.seed),
                full=full,
                kinds=asked.kinds,
            )
            judge.start()
            try:
                chaos.disturb(math.inf if asked.decks else 60 * asked.minutes, asked.rounds, asked.decks)
            finally:
                chaos.close()
            done = len(records(chaos.folder)) - 1
            if done < 1 or not chaos.recovered:
                raise SystemExit("no round finished under a fault: try more --minutes")
            return judged(chaos, done, run, folder)


def judged(chaos: Chaos, done: int, run: list[str], folder: Path) -> int:
    """Compare with the same rounds of an undisturbed run on one node, and print the result."""
    calm = folder / "calm"
    print(f"{done} rounds under {sum(map(len, chaos.recovered.values()))} faults; now the same undisturbed", flush=True)
    with (folder / "calm.log").open("wb") as log:
        command = [sys.executable, "-m", "rlhf_flow", *run, f"rounds={done}", f"run_dir={calm}"]
        subprocess.run(command, stdout=log, stderr=log, check=True)
    lost, doubled = difference(accounts(chaos.folder, done), accounts(calm, done))
    ours, theirs = hashes(chaos.folder, done), hashes(calm, done)
    common = sorted(ours.keys() & theirs.keys())  # neither run keeps the policies of early rounds
    differing = [path for path in common if ours[path] != theirs[path]]
    ends = [json.loads(records(root)[done].read_text())["policy"] for root in (chaos.folder, calm)]
    deaths = sum("It is started again" in line for line in chaos.log.read_text(errors="replace").splitlines())
    for line in times(chaos.recovered):
        print(line)
    print(f"workers started again: {deaths}; starts of the run: {chaos.starts}")
    print(f"responses lost: {lost}; doubled: {doubled}; files that differ: {len(differing)} of {len(common)}")
    print(f"weights after round {done}: {'those' if ends[0] == ends[1] else 'NOT those'} of the undisturbed run")
    for path in differing:
        print(f"differs: {path}")
    return 1 if lost or doubled or differing or ends[0] != ends[1] else 0


def difference(ours: list[Counter[str]], theirs: list[Counter[str]]) -> tuple[int, int]:
    """Number of responses that `ours` lacks, and that it has too often, compared round by round."""
    rounds = list(zip(ours, theirs, strict=True))
    return sum((b - a).total() for a, b in rounds), sum((a - b).total() for a, b in rounds)


def times(recovered: Mapping[str, list[float]]) -> Iterator[str]:
    """A line for each kind of fault, and one for all: the count, and the seconds until the run continued."""
    for kind, each in [*sorted(recovered.items()), ("all", [*chain.from_iterable(recovered.values())])]:
        yield f"{kind:8} {len(each):3} faults; to recover: mean {mean(each):5.1f} s, longest {max(each):5.1f} s"


if __name__ == "__main__":
    sys.exit(main())
