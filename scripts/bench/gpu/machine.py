"""The machine under test: its name and versions, its free memory, and the peak memory of each phase"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread

from rlhf_flow.capacity.flops import peak_here
from rlhf_flow.capacity.process_memory import size_text

TICK = 0.1  # seconds between two samples of the memory in use


@dataclass(frozen=True)
class Found:
    """Time and peak memory of one phase; memory in bytes."""

    seconds: float
    tensors: float  # torch.cuda.max_memory_allocated; 0 without a GPU
    driver: float  # GPU memory of all processes, sampled; 0 without a GPU
    resident: float  # resident set of this process on the host
    taken: float  # host memory that all processes took since the measurement began, sampled
    pinned: float  # host memory pinned by torch; 0 without a GPU


class Machine:
    """Measures named phases, one after the other. `device` is cpu, or cuda for the first GPU."""

    def __init__(self, device: str) -> None:
        self.device, self.gpu = device, device != "cpu"
        self.found: dict[str, Found] = {}
        self.begun = _available()

    def peak_flops(self) -> float | None:
        """Peak bfloat16 FLOP/s of the GPU; None if it is not known, or if there is none."""
        return peak_here(ranks=1) if self.gpu else None

    def left(self) -> tuple[float, float]:
        """Free bytes of the GPU (0 without one) and of the host."""
        import torch

        gpu = torch.cuda.mem_get_info(self.device)[0] if self.gpu else 0
        return float(gpu), min(_available(), _limit())

    def resident(self, name: str = "VmRSS") -> float:
        (kib,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024.0 * int(kib)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase. If a name repeats, the last time counts, and the peaks over all repeats."""
        import torch

        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to the current resident set
        if self.gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        with self._watched() as (driver, taken):
            start = time.perf_counter()
            yield
            if self.gpu:
                torch.cuda.synchronize(self.device)
            seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        tensors = torch.cuda.max_memory_allocated(self.device) if self.gpu else 0
        pinned = torch.cuda.memory.host_memory_stats()["allocated_bytes.current"] if self.gpu else 0
        before = self.found.get(name, Found(0, 0, 0, 0, 0, 0))
        self.found[name] = Found(
            seconds,
            tensors=max(before.tensors, tensors),
            driver=max(before.driver, *driver),
            resident=max(before.resident, self.resident("VmHWM")),
            taken=max(before.taken, *taken),
            pinned=max(before.pinned, pinned),
        )

    @contextmanager
    def _watched(self) -> Iterator[tuple[list[float], list[float]]]:
        """Sample the GPU memory in use and the host memory taken every TICK seconds, in a thread."""
        driver, taken, over = [0.0], [0.0], Event()

        def look() -> None:
            import torch

            while True:
                taken.append(self.begun - _available())
                if self.gpu:
                    free, all = torch.cuda.mem_get_info(self.device)
                    driver.append(float(all - free))
                if over.wait(TICK):
                    return

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield driver, taken
        finally:
            over.set()
            thread.join()

    def describe(self) -> Iterator[str]:
        """Two lines: the machine, and the versions."""
        import torch

        (processor, *_) = [*re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()), "unknown processor"]
        memory = size_text(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        host = f"{processor}, {len(os.sched_getaffinity(0))} processors, {memory}"
        if self.gpu:
            here = torch.cuda.get_device_properties(self.device)
            host = f"{here.name}, {size_text(here.total_memory)}, driver {_driver()}; {host}"
        yield f"Machine: {host}"
        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers"))
        yield f"Versions: {packages}, CUDA {torch.version.cuda or 'none'}"


def _available() -> float:
    (kib,) = re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return 1024.0 * int(kib)


def _limit() -> float:
    """Bytes left below the memory limit of the cgroup, with inactive file cache as free; infinite without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, now, parts = ((group / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:  # no cgroup v2, or not mounted
        return float("inf")
    (files,) = re.findall(r"^inactive_file (\d+)$", parts, re.MULTILINE)
    return float("inf") if limit.strip() == "max" else float(int(limit) - int(now) + int(files))


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
