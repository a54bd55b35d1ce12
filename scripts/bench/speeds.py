"""Speeds of a part of the pipeline beside the bare library that it runs on, as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Speed:
    """One side of a comparison: units of work per second, of each repetition."""

    side: str
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def table(title: str, unit: str, speeds: Sequence[Speed]) -> str:
    """Median and range of each side, and of its ratio to the first one in the same repetition."""
    lines = [title, f"{'':20}{unit + '/s':>11}  {'range':16}{'ratio':>6}  range"]
    for speed in speeds:
        ratios = [ours / peer for ours, peer in zip(speed.rates, speeds[0].rates, strict=True)]
        lines.append(
            f"{speed.side:20}{speed.median:11.0f}  {_span(speed.rates, 0):16}"
            f"{statistics.median(ratios):6.2f}  {_span(ratios, 2)}"
        )
    return "\n".join(lines)


def _span(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def rows(workload: str, dtype: str, unit: str, speeds: Sequence[Speed]) -> list[dict[str, object]]:
    """For a file of results: one row per side."""
    return [
        {"workload": workload, "dtype": dtype, "unit": f"{unit}/s", "side": one.side, "runs": one.rates}
        for one in speeds
    ]
