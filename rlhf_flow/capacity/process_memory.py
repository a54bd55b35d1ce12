"""What a process takes: bytes by what they are for, in each phase of its work. The peak of all phases counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

MIB, GIB = 1 << 20, 1 << 30

# Resident memory of a process on Linux that has imported the packages, opened a model of next to nothing and used it
# once; by scripts/bench/memory.py with torch 2.13 (for CPUs), transformers 5.19, deepspeed 0.19, vllm 0.32. With
# CUDA's libraries it is more.
LIBRARIES = {"torch": 550 * MIB, "deepspeed": 620 * MIB, "vllm": 800 * MIB, "driver": 500 * MIB}
HEAP = 32 * MIB  # the largest threshold that glibc sets itself
FRAGMENTS = 1.75  # heap that activations take on a CPU, over their bytes; measured there: 1.4 to 1.9
CUDA_CONTEXT = 600 * MIB  # of GPU memory, that a process holds before its first tensor


@dataclass(frozen=True)
class Phase:
    name: str
    items: Mapping[str, float]  # what for -> bytes

    @property
    def bytes(self) -> float:
        return sum(self.items.values())

    def without(self, names: Collection[str]) -> Phase:
        return Phase(self.name, {name: bytes for name, bytes in self.items.items() if name not in names})

    def only(self, names: Collection[str]) -> dict[str, float]:
        return {name: bytes for name, bytes in self.items.items() if name in names}


@dataclass(frozen=True)
class Memory:
    """Of one process on one kind of memory.

    On a CPU, blocks below HEAP bytes come from glibc's heap, which gives nothing back: what one phase took of it stays
    beside what another phase takes of larger blocks. So the two are counted apart, each at its own highest.
    """

    role: str  # engine, learner rank, scorer, driver, ...
    where: str  # GPU or host
    processes: int  # that each take as much
    phases: tuple[Phase, ...]
    small: Mapping[str, float] = field(default_factory=dict)  # item -> what of it is in the heap, over its bytes

    @property
    def bytes(self) -> float:
        """At most, with what the heap keeps."""
        heap = [sum(bytes * self.small.get(name, 0.0) for name, bytes in one.items.items()) for one in self.phases]
        rest = [
            sum(bytes * max(0.0, 1 - self.small.get(name, 0.0)) for name, bytes in one.items.items())
            for one in self.phases
        ]
        return max(heap) + max(rest)

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.bytes)


def size_of(text: str) -> int:
    """Bytes of `80GiB`, `512MiB`, `24GB`. Raises ValueError for anything else."""
    units = {
        "kib": 1 << 10,
        "mib": MIB,
        "gib": GIB,
        "tib": 1 << 40,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "tb": 10**12,
    }
    for unit, factor in units.items():
        number = text.strip().lower().removesuffix(unit).strip()
        if text.strip().lower().endswith(unit) and number.replace(".", "", 1).isdigit():
            return int(float(number) * factor)
    raise ValueError(f"--memory must be a size such as 80GiB or 24GB, got {text!r}.")


def told(bytes: float) -> str:
    """A size for people, in binary units."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", 1 << 10)):
        if bytes >= factor:
            return f"{bytes / factor:.1f} {unit}"
    return f"{bytes:.0f} B"
