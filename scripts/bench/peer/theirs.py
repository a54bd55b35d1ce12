"""TRL as the peer: installed into a folder of its own, run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from peer.workload import Workload

TRL = "1.16.0"  # the newest one in November 2026
SCRIPT = Path(__file__).with_name("trl_rounds.py")
LIMIT = 3600.0  # seconds


def installed(folder: Path) -> Path:
    """The folder of TRL, which pip fills the first time. It uses torch, transformers and accelerate of this Python."""
    target = folder / f"trl-{TRL}"
    if not target.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"trl=={TRL}", "--target", str(target)]
        subprocess.run(pip, check=True)
    return target


def rounds(
    trl: Path, workload: Workload, model: Path, prompts: Path, *, dtype: str, timed: int, lr: float, threads: int
) -> tuple[list[float], dict[str, str]]:
    """The seconds of each timed round, after one that is not timed; and the settings of the trainer."""
    asked = {
        "model": str(model),
        "prompts": str(prompts),
        "chat": workload.name == "W6",
        "batch": workload.prompts,
        "steps": timed + 1,
        "max_tokens": workload.max_tokens,
        "max_length": 1024,
        "dtype": dtype,
        "lr": lr,
        "threads": threads,
    }
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(trl), str(SCRIPT.parents[1])]),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(asked)], env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode:
        raise RuntimeError(f"TRL failed:\n{done.stderr[-3000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"][1:], answer["settings"]
