"""A series of numbers as one line of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """One block a value, of the last `width` values, between their least and greatest; a space if it is unknown.

    Empty if fewer than two values are known.
    """
    shown = [math.nan if value is None else value for value in values[-width:]]
    known = [value for value in shown if math.isfinite(value)]
    if len(known) < 2:
        return ""
    low, span = min(known), max(known) - min(known)
    top = len(BLOCKS) - 1

    def block(value: float) -> str:
        return BLOCKS[round(top * (value - low) / span) if span else top // 2] if math.isfinite(value) else " "

    return "".join(map(block, shown))
