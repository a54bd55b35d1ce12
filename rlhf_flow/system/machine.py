"""The machine that a run starts on, for its manifest. Loads no library and uses no GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000" (microseconds): two cores
SHARED_MEMORY = Path("/dev/shm")
SECONDS = 10.0  # timeout of nvidia-smi


def described() -> dict[str, object]:
    """Cores that this process may use, memory in GiB, and the name of each GPU."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return {"cores": cores(), "memory_gib": round(memory, 1), "gpus": gpus()}


def cores() -> int:
    """The cores that this process may use: those it is bound to, or fewer by the CPU limit of its container."""
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = CPU_LIMIT.read_text().split()
    except (OSError, ValueError):  # not Linux, or version 1 of control groups
        return bound
    return bound if quota == "max" else max(1, min(bound, int(quota) // int(period)))


def shared_memory() -> int | None:
    """Bytes that are free in /dev/shm; None if the machine has none."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def gpus() -> list[str]:
    """The GPUs that `nvidia-smi` lists; empty if there is no driver or it does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in output.splitlines() if line.strip()]
