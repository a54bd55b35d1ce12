"""Several machines on one: launchers as they are run, with stand-ins for what only a cluster has."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
STANDIN = Path(__file__).with_name("standin.py")
PATIENCE = 60.0  # seconds, for what takes less than one


@dataclass(frozen=True)
class Machines:
    folder: Path
    repository: Path  # a copy of the launchers, at a path with a space
    real: bool = False  # Ray itself, in a network of its own
    head: str = "127.0.0.1"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def told(self, what: str) -> list[dict]:
        record = self.folder / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        return [line for line in map(json.loads, lines) if line["what"] == what]

    def order(self) -> list[str]:
        return [json.loads(line)["what"] for line in (self.folder / "record").read_text().splitlines()]

    def left(self) -> list[str]:
        """Processes that know this folder."""
        return [
            shlex.join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.folder) in word for word in process.info["cmdline"] or [])
        ]

    @contextmanager
    def launched(self, command: Sequence[str], **environ: str) -> Iterator[subprocess.Popen[str]]:
        inside = ["unshare", "--net", "bash", "-c", NETWORK, "bash"] if self.real else []
        process = subprocess.Popen(
            [*inside, "bash", *command],
            env={**self.environ(), **environ},
            cwd=self.repository,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.communicate(timeout=2 * PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def run(self, command: Sequence[str], **environ: str) -> tuple[int, str]:
        with self.launched(command, **environ) as process:
            said, _ = process.communicate(timeout=4 * PATIENCE)
        return process.returncode, said

    def environ(self) -> Mapping[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "RECORD": str(self.folder / "record"),
            "HEAD": self.head,
            "WITH_RAY": "yes" if self.real else "",
            "LAUNCH_PYTHON": str(self.folder / "bin" / "python"),
            "LAUNCH_TMP": str(self.temporary),
            "LAUNCH_WAIT_SECONDS": "180" if self.real else "30",
            "LAUNCH_OBJECT_STORE_MIB": "100",
            "LAUNCH_STOP_SECONDS": "30",
            "SLURM_SUBMIT_DIR": str(self.repository),
            "SLURM_JOB_ID": "42",
        }


NETWORK = 'ip link set lo up; for n in 1 2 3; do ip address add 10.77.0.$n/32 dev lo; done; exec "$@"'


def machines(folder: Path, *, real: bool = False) -> Machines:
    (folder / "bin").mkdir(parents=True)
    (folder / "tmp").mkdir()
    for name in ("srun", "scontrol", "ssh", "python"):
        plain = "" if real else "-SE "  # starts in a fifth of the time
        script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {plain}{shlex.quote(str(STANDIN))} {name} "$@"\n'
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    shutil.copytree(ROOT / "scripts/launch", folder / "my repository/scripts/launch")
    return Machines(folder, folder / "my repository", real, "10.77.0.1" if real else "127.0.0.1")


def eventually(holds: Callable[[], object], seconds: float = PATIENCE) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(holds())
