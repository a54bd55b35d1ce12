"""The printed tables: speed, peak memory, and memory by phase"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpu.machine import Machine
from gpu.planned import Planned
from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, GIB, Memory


@dataclass(frozen=True)
class Speed:
    """Speed of several calls on the same tokens."""

    tokens: int
    flops: float
    seconds: Sequence[float]

    def lines(self, name: str, peak: float | None) -> Iterator[str]:
        yield _line(f"{name}, tokens/s", [self.tokens / each for each in self.seconds], "{:,.0f}")
        if peak is None:
            yield f"| {name}, model FLOP utilisation | not known | --peak-tflops |"
        else:
            yield _line(f"{name}, model FLOP utilisation, %", [100 * self.flops / each / peak for each in self.seconds])
        yield _line(f"{name}, s", list(self.seconds), "{:,.2f}")


def peaks(chosen: Planned, machine: Machine, libraries: float) -> Iterator[str]:
    found = machine.found.values()
    host = chosen.host.bytes + libraries
    rows: list[tuple[str, float | None, float]] = []
    if chosen.gpu is not None:
        rows.append(("GPU, torch's tensors", chosen.gpu.bytes, max(each.tensors for each in found)))
        rows.append(
            ("GPU, all that the driver counts", chosen.gpu.bytes + CUDA_CONTEXT, max(each.driver for each in found))
        )
    rows.append(("host, resident set", host, max(each.resident for each in found)))
    rows.append(("host, taken from the machine", host, max(each.taken for each in found)))
    if chosen.gpu is not None:
        rows.append(("host, of it pinned by torch", None, max(each.pinned for each in found)))
    yield from ["| peak memory, GiB | predicted | measured | predicted / measured |", "|---|--:|--:|--:|"]
    for name, said, was in rows:
        yield f"| {name} | {_gib(said)} | {_gib(was)} | {_ratio(said, was)} |"


def phases(chosen: Planned, machine: Machine, libraries: float) -> Iterator[str]:
    """Predicted and measured memory of each phase; host memory without libraries."""
    yield "| phase, GiB | GPU predicted | measured | host predicted | measured |"
    yield "|---|--:|--:|--:|--:|"
    for name, found in machine.found.items():
        gpu = None if chosen.gpu is None else _of_phase(chosen.gpu, name)
        host = _of_phase(chosen.host, name)
        tensors = found.tensors if machine.gpu else None
        yield f"| {name} | {_gib(gpu)} | {_gib(tensors)} | {_gib(host)} | {_gib(found.resident - libraries)} |"


def _of_phase(memory: Memory, name: str) -> float | None:
    return max((phase.bytes for phase in memory.phases if phase.name.startswith(name)), default=None)


def _line(name: str, values: Sequence[float], shown: str = "{:.1f}") -> str:
    low, middle, high = (shown.format(each) for each in (min(values), statistics.median(values), max(values)))
    return f"| {name} | {middle} | {low} to {high}, {len(values)} times |"


def _gib(bytes: float | None) -> str:
    return "" if bytes is None else f"{bytes / GIB:.2f}"


def _ratio(said: float | None, was: float) -> str:
    return f"{said / was:.2f}" if said is not None and was > 0 else ""
