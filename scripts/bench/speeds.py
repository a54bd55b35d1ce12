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
    """Median and range of each side, and its ratio to the first."""
    lines = [title, f"{'':22}{unit + '/s':>11}  {'range':21}{'ratio':>6}"]
    for speed in speeds:
        span = f"{min(speed.rates):.0f} to {max(speed.rates):.0f}"
        lines.append(f"{speed.side:22}{speed.median:11.0f}  {span:21}{speed.median / speeds[0].median:6.2f}")
    return "\n".join(lines)


def rows(workload: str, dtype: str, unit: str, speeds: Sequence[Speed]) -> list[dict[str, object]]:
    """For a file of results: one row per side."""
    return [
        {"workload": workload, "dtype": dtype, "unit": f"{unit}/s", "side": one.side, "runs": one.rates}
        for one in speeds
    ]
