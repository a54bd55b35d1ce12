"""Formats numbers for reading. A missing value is a dash, never zero."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from rlhf_flow.metrics.digits import places

ABSENT = "—"
FORMS = {"elo": ".0f", "samples": ".0f", "tokens": ".1f"}  # of the columns that are not in the digits of their interval


def number(value: float | None, form: str = ".3f") -> str:
    """`form` as in `format`; `—` for a missing value, `NaN` and `∞` for values that are not finite."""
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = format(value, form)
    return text.replace("-", "−") if set(text) - set("-0.,%") else text.replace("-", "")  # -0.000 is 0.000


def supported(form: str, low: float | None, high: float | None) -> str:
    """`form` with as many digits behind the point as the interval supports, if it has three."""
    return form.replace(".3f", f".{places(low, high)}f")


def cell(interval: tuple[float, float, float] | None, form: str = ".3f") -> str:
    """A value with its interval; a dash if it is not known."""
    if interval is None:
        return ABSENT
    value, low, high = interval
    form = supported(form, low, high)
    return f"{number(value, form)} ({number(low, form)} to {number(high, form)})"


def with_ends(row: Mapping[str, float], key: str) -> str:
    """The value of a key with its interval, if it has one; a dash if it is not there."""
    form = FORMS.get(key, ".3f")
    if f"{key}_low" not in row:
        return number(row.get(key), form)
    return cell((row[key], row[f"{key}_low"], row[f"{key}_high"]), form)


def short(value: float) -> str:
    """Four digits at most, for the ticks and the ends of a curve."""
    if not math.isfinite(value):
        return number(value)
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return number(value, ".2g")
    if abs(value) >= 100:
        return number(value, ",.0f")
    text = f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}".rstrip("0").rstrip(".")
    return number(float(text), f".{len(text.partition('.')[2])}f")


def compact(value: float) -> str:
    """`short`, with k, M or G from ten thousand on."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if max(1e4, factor) <= abs(value) < 1e15:
            return f"{short(value / factor)}{unit}"
    return short(value)


def slug(title: str) -> str:
    """An anchor or the name of a file: letters, digits and hyphens; never empty."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return words[:60] or f"u{sum(map(ord, title)):x}"
