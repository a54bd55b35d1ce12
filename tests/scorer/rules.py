"""Rules for the tests, as a user would write them."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_flow.types import Message, Verdict

not_a_function = 3


def length(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float:
    return float(len(answer))


def right(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> bool:
    return answer == meta["answer"]


def aspects(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> Verdict:
    level = meta["level"]
    assert isinstance(level, int)
    return Verdict(len(answer) + level, aspects={"length": len(answer), "level": level})


def moody(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> object:
    """Gives what the answer says."""
    return {
        "nan": float("nan"),
        "huge": 1e300,
        "text": "1.0",
        "none": None,
        "aspect": Verdict(1.0, aspects={"tone": float("inf")}),
        "more": Verdict(1.0, aspects={"tone": 1.0}),
        "fine": 1.0,
    }[answer]


def broken(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float:
    raise KeyError("no such thing")
