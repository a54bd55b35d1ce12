"""A figure in as many digits as its interval supports."""

from __future__ import annotations

import math

MOST = 4  # digits behind the point
LOPSIDED = 0.2  # share of the half-width by which the two sides of an interval may differ to be shown as one


def places(low: float | None, high: float | None) -> int:
    """Digits behind the point that show two significant digits of half the interval's width; 3 without an interval."""
    half = math.nan if low is None or high is None else (high - low) / 2
    if not 0 < half < math.inf:
        return 3
    return min(max(1 - math.floor(math.log10(half)), 0), MOST)


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """`0.55 ± 0.23`; `0.97 [0.81, 1.00]` if the sides differ; the value alone without an interval of some width."""
    digits = places(low, high)
    if low is None or high is None or not low < high:
        return f"{value:.{digits}f}"
    half = (high - low) / 2
    if abs((high - value) - (value - low)) <= LOPSIDED * half:
        return f"{value:.{digits}f} ± {half:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
