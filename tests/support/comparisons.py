"""Comparisons for the tests, as a user would write them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rlhf_flow.types import Message, Rollouts

Messages = tuple[Message, ...]
Meta = Mapping[str, object]

asked: list[tuple[str, str]] = []


def longer(messages: Messages, first: str, second: str, meta: Meta) -> float:
    """The longer of two answers wins by as much as it is longer."""
    return 1 / (1 + math.exp(min(50, len(second) - len(first))))


def circle(messages: Messages, first: str, second: str, meta: Meta) -> float:
    """Rock, paper, scissors; and anything else draws. Remembers what it was asked."""
    asked.append((first, second))
    beats = {("paper", "rock"): 0.9, ("rock", "scissors"): 0.8, ("scissors", "paper"): 0.7}
    if (first, second) in beats:
        return beats[first, second]
    return 1 - beats.get((second, first), 0.5)


def first_is_better(messages: Messages, first: str, second: str, meta: Meta) -> float:
    return 0.75


def nearly(messages: Messages, first: str, second: str, meta: Meta) -> float:
    """Adds up to 1 but for rounding."""
    return 0.3 + 4e-7 if first < second else 0.7


def shy(messages: Messages, first: str, second: str, meta: Meta) -> float | None:
    """Abstains on what it does not know: "?" by None, "??" by NaN, and "!" only where it stands first."""
    if "?" in (first, second) or first == "!":
        return None
    if "??" in (first, second):
        return math.nan
    return 1.0 if first < second else 0.0


def moody(messages: Messages, first: str, second: str, meta: Meta) -> object:
    return {"text": "0.5", "more": 1.25, "less": -0.25, "huge": 1e300, "list": [0.5]}[max(first, second)]


def gold(messages: Messages, first: str, second: str, meta: Meta) -> float:
    return 0.5 + 0.5 * ((first == meta["answer"]) - (second == meta["answer"]))


def broken(messages: Messages, first: str, second: str, meta: Meta) -> float:
    raise KeyError("no such thing")


def count(rollouts: Rollouts) -> dict[str, float]:
    return {"answers": sum(map(len, rollouts.responses)), "prompts": len(rollouts.prompts)}


def no_number(rollouts: Rollouts) -> dict[str, float]:
    return {"answers": math.nan}


def no_mapping(rollouts: Rollouts) -> float:
    return 1.0


def broken_measure(rollouts: Rollouts) -> dict[str, float]:
    raise KeyError("no such thing")
