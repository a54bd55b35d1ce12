"""Errors that name a problem in the configuration and its remedy, and the messages of errors of libraries."""

from __future__ import annotations


def brief(value: object) -> str:
    """A value for a message: its repr on one line of at most 80 characters."""
    return " ".join(repr(value).split())[:80]


class ConfigError(ValueError):
    """A mistake in the configuration. `str(error)` is "<problem>. Fix: <remedy>."."""

    def __init__(self, problem: str, remedy: str, keys: tuple[str, ...] = ()) -> None:
        """`keys`: overrides that carry out the remedy, if it is one of keys alone."""
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")
        self.keys = keys
        super().__init__(self.problem, self.remedy, keys)  # the arguments that pickle calls __init__ with

    def __str__(self) -> str:
        return f"{self.problem}. Fix: {self.remedy}."


def reason(error: BaseException) -> str:
    """The message of an error on one line, without a full stop, for a sentence that goes on; its class if it is empty.

    Libraries end their messages with and without one.
    """
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
