"""The memory of a process: bytes by purpose, in each phase of its work. The phase with the peak counts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30

# Resident memory on Linux of a process that imported the packages and used a minimal model once, measured by
# scripts/bench/memory.py with CPU builds of torch 2.13, transformers 5.19, deepspeed 0.19 and vllm 0.32. CUDA's
# libraries take more.
LIBRARIES = {"torch": 550 * MIB, "deepspeed": 620 * MIB, "vllm": 800 * MIB, "driver": 500 * MIB}
MARGIN = 0.3  # of host memory, for the allocator and the copies that are not counted; up to 0.3 was measured
CUDA_CONTEXT = 600 * MIB  # GPU memory of a process before its first tensor

UNITS = {"kib": 1 << 10, "mib": MIB, "gib": GIB, "tib": 1 << 40, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


@dataclass(frozen=True)
class Phase:
    name: str
    items: Mapping[str, float]  # purpose -> bytes

    @property
    def bytes(self) -> float:
        return sum(self.items.values())

    def without(self, names: Collection[str]) -> Phase:
        return Phase(self.name, {name: bytes for name, bytes in self.items.items() if name not in names})

    def only(self, names: Collection[str]) -> dict[str, float]:
        return {name: bytes for name, bytes in self.items.items() if name in names}


@dataclass(frozen=True)
class Memory:
    """The memory of one process on its GPU or its host."""

    role: str  # engine, learner rank, driver, or the slot of a scorer
    where: str  # GPU or host
    processes: int  # that each take as much
    phases: tuple[Phase, ...]
    margin: float = 0.0  # share of the peak that is added to it

    @property
    def bytes(self) -> float:
        """The peak, with its margin."""
        return self.peak.bytes * (1 + self.margin)

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.bytes)


def size_of(text: str) -> int:
    """Bytes of `80GiB`, `512MiB`, `24GB`. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([kmgt]i?b)", text.strip().lower())
    if found is None:
        raise ValueError(f"--memory must be a size such as 80GiB or 24GB, got {text!r}.")
    return int(float(found[1]) * UNITS[found[2]])


def size_text(bytes: float) -> str:
    """A size in binary units: 1.5 GiB."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", 1 << 10)):
        if bytes >= factor:
            return f"{bytes / factor:.1f} {unit}"
    return f"{bytes:.0f} B"
