"""Training prompts that occur more than once, or that occur in an evaluation set."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.files import read
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.types import Prompt

SHOWN = 60  # characters of a prompt in an error


class EvaluationSet:
    """The texts of an evaluation set, and their runs of `words` words."""

    def __init__(self, name: str, texts: Sequence[str], words: int) -> None:
        self.name = name
        self._words = words
        self._whole = {normalised(text) for text in texts}
        self._runs = set(chain.from_iterable(map(self._of, texts)))

    def has(self, prompt: Prompt) -> bool:
        asked = [message.content for message in prompt.messages if message.role == "user"]
        return any(normalised(text) in self._whole or not self._runs.isdisjoint(self._of(text)) for text in asked)

    def _of(self, text: str) -> Iterator[int]:
        """The hashes of all runs of words in a text."""
        found = re.findall(r"\w+", normalised(text))
        return (hash(tuple(found[at : at + self._words])) for at in range(len(found) - self._words + 1))


def screened(prompts: Sequence[Prompt], limits: Limits, counts: Counter[str]) -> list[Prompt]:
    """The prompts that keep to `limits.repeats` and `limits.overlap`; what was found is added to the counts.

    Raises ValueError if a prompt occurs in an evaluation set and is to be refused, or if a set cannot be read.
    """
    kept = _without_repeats(prompts, limits.repeats, counts)
    for name, path in limits.overlap.files.items():
        shared = {prompt.id for prompt in _shared(kept, name, path, limits)}
        counts[f"in_{name}"] = len(shared)
        if limits.overlap.action == "drop":
            kept = [prompt for prompt in kept if prompt.id not in shared]
    return kept


def _without_repeats(prompts: Sequence[Prompt], most: int | None, counts: Counter[str]) -> list[Prompt]:
    if most is None:
        return list(prompts)
    seen: Counter[tuple[str, ...]] = Counter()
    kept = []
    for prompt in prompts:
        text = tuple(f"{message.role} {normalised(message.content)}" for message in prompt.messages)
        seen[text] += 1
        if seen[text] <= most:
            kept.append(prompt)
    counts["repeats_dropped"] = len(prompts) - len(kept)
    return kept


def _shared(prompts: Sequence[Prompt], name: str, path: str, limits: Limits) -> list[Prompt]:
    overlap, key = limits.overlap, f"prompts.limits.overlap.files.{name}"
    one = EvaluationSet(name, _texts(key, path, overlap.columns, limits), overlap.words)
    shared = [prompt for prompt in prompts if one.has(prompt)]
    if shared and overlap.action == "refuse":
        first = " ".join(shared[0].messages[-1].content.split())
        shown = first if len(first) <= SHOWN else f"{first[: SHOWN - 1]}…"
        raise ValueError(
            f"{key}={path}: {len(shared)} of {len(prompts)} prompts occur in this evaluation set, first "
            f"{shared[0].id!r} ({shown!r}). Fix: prompts.limits.overlap.action=drop, or remove them from prompts.path."
        )
    return shared


def _texts(key: str, path: str, columns: Sequence[str], limits: Limits) -> list[str]:
    """The texts of a file in the columns. Raises ValueError if a row cannot be read or has none of them."""
    texts: list[str] = []
    for row in read(path, key, limits):
        if isinstance(row, BadRowError):
            raise row
        found = [text for column in columns for text in _strings(row.values.get(column))]
        if not found:
            raise ValueError(
                f"{row.place}: no text in the columns {', '.join(columns)}; the columns there are "
                f"{', '.join(row.values)}. Fix: prompts.limits.overlap.columns=[…]."
            )
        texts += found
    return texts


def _strings(value: object) -> Iterator[str]:
    """A text, the texts of a list, or the contents of a chat."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one.get("content", one.get("value")) if isinstance(one, dict) else one)


def normalised(text: str) -> str:
    """In one case and spacing, and with one spelling of each character."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
