"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.system.errors import ConfigError

LEVELS = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """`problem`: the run would fail or be wrong. `warning`: it may fail, or be slow."""

    level: str  # one of LEVELS
    subject: str  # packages, machine, network, disk, models, ...
    message: str
    remedy: str = ""  # empty for ok, and for a message that names its own


def ok(subject: str, message: str) -> Finding:
    return Finding("ok", subject, message)


def warning(subject: str, message: str, remedy: str) -> Finding:
    return Finding("warning", subject, message, remedy)


def problem(subject: str, message: str, remedy: str) -> Finding:
    return Finding("problem", subject, message, remedy)


def from_error(subject: str, error: Exception) -> Finding:
    """The problem that a check of the configuration raised."""
    if isinstance(error, ConfigError):
        return problem(subject, error.problem, error.remedy)
    return problem(subject, " ".join(str(error).split()).rstrip("."), "")
