"""A claim of a paper, and the findings of its check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import SupportsFloat


@dataclass(frozen=True)
class Finding:
    """A measured number, and the rule that it must satisfy."""

    what: str
    measured: float
    rule: str
    holds: bool


def below(what: str, measured: SupportsFloat, threshold: SupportsFloat) -> Finding:
    return Finding(what, float(measured), f"< {float(threshold):.3g}", float(measured) < float(threshold))


def above(what: str, measured: SupportsFloat, threshold: SupportsFloat) -> Finding:
    return Finding(what, float(measured), f"> {float(threshold):.3g}", float(measured) > float(threshold))


def between(what: str, measured: SupportsFloat, low: float, high: float) -> Finding:
    return Finding(what, float(measured), f"{low:g} to {high:g}", bool(low <= float(measured) <= high))


def near(what: str, measured: SupportsFloat, expected: float, within: float) -> Finding:
    rule = f"{expected:g} ± {within:g}"
    return Finding(what, float(measured), rule, bool(abs(float(measured) - expected) <= within))


@dataclass(frozen=True)
class Claim:
    """The claim holds if all findings of `check(seed)` do."""

    id: str  # V1a, V1b, ...
    method: str
    says: str  # one line
    paper: str  # and section
    check: Callable[[int], Iterable[Finding]]
    seconds: float = 1.0  # approximate duration; the longest start first
