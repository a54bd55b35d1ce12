"""Rules for the tests, as a user would write them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from rlhf_flow.types import Message, Verdict

not_a_function = 3


def length(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float:
    return float(len(answer))


def two(prompt, answer):  # type: ignore[no-untyped-def]
    """Takes less than a rule is given."""
    return 0.0


def of_a_trainer(completions, **kwargs):  # type: ignore[no-untyped-def]
    """A reward of another library."""
    return [0.0 for _ in completions]


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


def lengths(prompts: list[object], answers: list[str], metas: list[Mapping[str, object]], plus: int = 0) -> list[float]:
    assert len(prompts) == len(answers) == len(metas)
    assert all("level" in meta for meta in metas)
    return [float(len(answer)) + plus for answer in answers]


async def later(prompt: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float | None:
    """The more it waits, the later it was asked: all at the same time take as long as one."""
    await asyncio.sleep(0.2)
    if answer == "broken":
        raise KeyError("no such thing")
    return None if answer == "none" else float(len(answer))


async def later_lengths(prompts: list[object], answers: list[str], metas: list[Mapping[str, object]]) -> np.ndarray:
    await asyncio.sleep(0)
    return np.array([len(answer) for answer in answers], dtype=np.float32)


def too_few(prompts: list[object], answers: list[str], metas: list[Mapping[str, object]]) -> list[float]:
    return [1.0]


def no_list(prompts: list[object], answers: list[str], metas: list[Mapping[str, object]]) -> float:
    return 1.0
