"""What a check says: one line, and the way out where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """`problem`: a run would fail, or be wrong; `warning`: it may, or be slow."""

    level: str
    subject: str  # packages, machine, network, disk, models, ...
    says: str
    way_out: str = ""

    def __post_init__(self) -> None:
        assert self.level in LEVELS
        assert bool(self.way_out) == (self.level != "ok"), "whoever complains knows a way out"


def ok(subject: str, says: str) -> Finding:
    return Finding("ok", subject, says)


def warning(subject: str, says: str, way_out: str) -> Finding:
    return Finding("warning", subject, says, way_out)


def problem(subject: str, says: str, way_out: str) -> Finding:
    return Finding("problem", subject, says, way_out)


def refusal(subject: str, error: Exception) -> Finding:
    """An error as a problem: what stands before `Fix:` or `Try`, or its first sentence, and then the way out."""
    told = " ".join(str(error).split())
    says, way_out = told, ""
    for mark in (". Fix: ", ". Try "):
        if mark in told:
            says, _, way_out = told.partition(mark)
            break
    else:
        says, _, way_out = told.partition(". ")
    return problem(subject, says.rstrip("."), way_out.rstrip(".") or "correct it")
