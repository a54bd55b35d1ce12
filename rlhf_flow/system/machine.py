"""The machine that a run starts on, for its manifest: found without loading a library or touching a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

SECONDS = 10.0  # for which the GPU's driver may take to answer


def described() -> dict[str, object]:
    """Cores that this process may use, memory in GiB, and the name of each GPU."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return {"cores": cores, "memory_gib": round(memory, 1), "gpus": gpus()}


def gpus() -> list[str]:
    """The names that `nvidia-smi` lists; none if there is no driver, or if it does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    asked = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.splitlines() if line.strip()]
