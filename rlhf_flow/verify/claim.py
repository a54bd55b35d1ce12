"""A claim of a paper, and what was found when it was checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import SupportsFloat


@dataclass(frozen=True)
class Finding:
    """One number, and the rule that it had to keep."""

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
    """`check(seed)` finds out whether the claim holds; every finding must."""

    id: str  # V1a, V1b, ...
    method: str
    says: str  # in a line
    paper: str  # and where it says so
    check: Callable[[int], Iterable[Finding]]
    seconds: float = 1.0  # about how long it takes: the longest are begun first
