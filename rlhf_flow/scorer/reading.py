"""What a reply says: which answer is better, or how good one is. What does not say so clearly is an abstention.

The two letters' probabilities, where the endpoint gives them, say by how much (RLHF Workflow, arXiv:2405.07863).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

WORTH = {"a": 1.0, "b": 0.0, "c": 0.5, "tie": 0.5}  # P(the first is better), by the word that says it
WORD = r"(a|b|c|tie)"
AROUND = r"[\s*_`\"'.:()\[\]]*"  # what models put around a word to stress it
ALONE = re.compile(f"{AROUND}{WORD}{AROUND}", re.IGNORECASE)
BRACKETED = re.compile(rf"\[\[\s*{WORD}\s*\]\]", re.IGNORECASE)
LABELLED = re.compile(
    rf"[\s*_#]*(?:final )?(?:verdict|answer|winner|choice)[\s*_]*:{AROUND}{WORD}{AROUND}", re.IGNORECASE
)


@dataclass(frozen=True)
class Reply:
    """What a model said, and where they are known the log-probs, in nats, of the tokens it could have begun with."""

    text: str
    begins: tuple[tuple[str, float], ...] = ()  # the likeliest first

    def as_json(self) -> str:
        return json.dumps({"text": self.text, "begins": self.begins})

    @classmethod
    def from_json(cls, written: str) -> Reply:
        held = json.loads(written)
        return cls(held["text"], tuple((token, logp) for token, logp in held["begins"]))


def preference(reply: Reply) -> float | None:
    """P(the first is better); None where the reply gives no verdict.

    A reply that is a letter alone gives it by the letters' probabilities, where the endpoint told them and a letter is
    the likeliest of all. Otherwise the first token is no verdict, and what is said counts: 1, 0, or 1/2 for a tie.
    """
    said = verdict(reply.text)
    words = [(_worth(token), logp) for token, logp in reply.begins]
    if said is None or not ALONE.fullmatch(reply.text) or not words or words[0][0] is None:
        return said
    most = words[0][1]
    weights = [(worth, math.exp(logp - most)) for worth, logp in words if worth is not None]
    return sum(worth * weight for worth, weight in weights) / sum(weight for _, weight in weights)


def verdict(text: str) -> float | None:
    """1 where the text says A, 0 for B, 1/2 for C or a tie; None where it says none of them, or more than one.

    It says so by the letter alone, by [[A]] anywhere, or by a last line such as "Verdict: A".
    """
    text = _spoken(text).strip()
    last = text.rpartition("\n")[2]
    said = [ALONE.fullmatch(text), *BRACKETED.finditer(text), LABELLED.fullmatch(last)]
    worths = {WORTH[match[1].lower()] for match in said if match is not None}
    return worths.pop() if len(worths) == 1 else None


def marks(text: str, criteria: Collection[str], *, low: float, high: float) -> dict[str, float] | None:
    """The number of each criterion, in [low, high], from the one JSON object in the text that has them all.

    None where there is no such object, where two differ, and where one is no number or out of range: nothing is
    clipped.
    """
    found = [
        {name: held[name] for name in criteria} for held in _objects(_spoken(text)) if set(criteria) <= held.keys()
    ]
    if not found or any(other != found[0] for other in found[1:]):
        return None
    numbers = {name: _number(value) for name, value in found[0].items()}
    return numbers if all(low <= number <= high for number in numbers.values()) else None


def _objects(text: str) -> Iterator[Mapping[str, object]]:
    """The outermost JSON objects in a text."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            held, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield held
        at = text.find("{", end)


def _spoken(text: str) -> str:
    """The text without the thoughts of a model that thinks aloud; of an unfinished thought nothing is left."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _worth(token: str) -> float | None:
    word = ALONE.fullmatch(token)
    return None if word is None else WORTH[word[1].lower()]


def _number(value: object) -> float:
    """NaN, which is in no range, for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer that no float holds
        return math.nan
