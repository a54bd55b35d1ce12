"""Format, length and JSON validity of an answer, and occurrences of a pattern in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import regex

from rlhf_flow.types import Message

Messages = tuple[Message, ...]
Meta = Mapping[str, object]

SECONDS = 10.0  # of CPU time: bounds catastrophic backtracking


def in_format(
    messages: Messages, answer: str, meta: Meta, *, pattern: str, where: str = "whole", seconds: float = SECONDS
) -> float:
    """1 if the regular expression matches the whole answer (where=whole) or a part of it (where=part), else 0.

    The syntax is that of the package `regex`, a superset of Python's; with `(?s)` a dot matches line ends. Raises
    ValueError if the search takes longer than `seconds` of CPU time, so that no score depends on the machine's speed.
    """
    _check("where", "whole or part", where in ("whole", "part"), where)
    compiled = _compiled(pattern)
    search = compiled.fullmatch if where == "whole" else compiled.search
    with _in_time(pattern, answer):
        return float(search(answer, timeout=seconds) is not None)


def occurrences(
    messages: Messages, answer: str, meta: Meta, *, pattern: str, most: int | None = None, seconds: float = SECONDS
) -> float:
    """The number of non-overlapping matches in the answer, at most `most` (1 tests for presence). See `in_format`."""
    _check("most", ">= 1 or null", most is None or most >= 1, most)
    compiled = _compiled(pattern)
    with _in_time(pattern, answer):
        return float(sum(1 for _ in islice(compiled.finditer(answer, timeout=seconds), most)))


def length(
    messages: Messages, answer: str, meta: Meta, *, least: int = 0, most: int | None = None, unit: str = "characters"
) -> float:
    """0 for an answer of `least` to `most` characters (or whitespace-separated words), else minus the distance."""
    _check("unit", "characters or words", unit in ("characters", "words"), unit)
    _check("least", ">= 0", least >= 0, least)
    _check("most", f">= least={least} or null", most is None or most >= least, most)
    units = len(answer if unit == "characters" else answer.split())
    over = 0 if most is None else units - most
    return -float(max(least - units, over, 0))


def valid_json(messages: Messages, answer: str, meta: Meta, *, required: Sequence[str] = ()) -> float:
    """1 if the answer is JSON (RFC 8259), surrounding white space aside, else 0.

    With `required` it must be an object with these keys.
    """
    _check("required", "a list of keys", not isinstance(required, str), required)
    try:  # numbers stay strings: long ones are slow to convert
        value = json.loads(answer, parse_int=str, parse_float=str, parse_constant=_refused)
    except (ValueError, RecursionError):
        return 0.0
    return float(not required or (isinstance(value, dict) and value.keys() >= set(required)))


def _refused(name: str) -> None:
    raise ValueError(f"{name} is Python's, not JSON's")


def _compiled(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)  # cached by the package
    except regex.error as error:
        raise ValueError(f"pattern must be a regular expression, got {pattern!r}: {error}") from error


@contextmanager
def _in_time(pattern: str, answer: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ValueError(
            f"the search for pattern={pattern!r} in an answer of {len(answer)} characters took longer than `seconds`: "
            "it backtracks too much. Fix: write it with possessive quantifiers "
            r"(`\w++`) for instance, or raise `seconds`."
        ) from error


def _check(key: str, rule: str, ok: bool, value: object) -> None:
    if not ok:
        raise ValueError(f"{key} must be {rule}, got {value!r}")
