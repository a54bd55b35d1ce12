"""Preferences or ratings that a data set holds for its own answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.functions.loader import is_number
from rlhf_flow.scorer.pairwise import answers_each, bradley_terry, by_answer, prompts_and_responses
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, Response, Rollouts, Scored


@dataclass(frozen=True)
class Recorded:
    """Reads labels from the columns of the prompt's row; null is an abstention.

    P(answer of draw `first` beats answer of draw `second`) is a column: `preference` itself, or `strength`, with
    P = sigma(scale * strength); all other pairs are unknown. With `ratings` alone it is
    sigma(scale * (rating_i - rating_j)) for every two answers. Without any of these columns the first always wins, as
    in data with one chosen and one rejected answer. The rating of an answer, if there is one, is its utility.
    """

    first: str = "first"  # name of a draw (sampler.draws)
    second: str = "second"  # the draw with the second answer
    preference: str | None = None  # column: a number in [0, 1], true, false or null
    strength: str | None = None  # column: a number, < 0 if the second is better, 0 for a tie; or null
    ratings: dict[str, str] = field(default_factory=dict)  # draw -> column: a number or null
    scale: float = 1.0  # nats per point of strength or rating

    loads_model: ClassVar[bool] = False
    cache_format: ClassVar[None] = None  # the labels are on disk

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("second", "another draw than scorer.first", self.second != self.first),
            ("strength", "left empty with scorer.preference", self.preference is None or self.strength is None),
            ("scale", "> 0", self.scale > 0),
        )

    @property
    def intransitive(self) -> bool:
        return not self.by_ratings

    @property
    def by_ratings(self) -> bool:
        """Whether preferences follow from the ratings alone."""
        return bool(self.ratings) and self.preference is None and self.strength is None

    def fingerprint(self) -> str:
        return "recorded"  # the prompts, which hold the labels, are hashed

    def check(self) -> None:
        """Nothing: missing labels show in the rows only."""

    def open(self, place: Place) -> RecordedJudge:
        return RecordedJudge(self)


@dataclass(frozen=True)
class RecordedJudge:
    """The opened scorer."""

    spec: Recorded

    def score(self, rollouts: Rollouts) -> Scored:
        """Look up every label; `judge/queries` counts the labels found.

        Raises ValueError, naming the prompt, if a label's column is missing or holds no label.
        """
        n = answers_each(rollouts)
        utility = None
        if self.spec.ratings:
            utility = by_answer(rollouts, [self._rating(*one) for one in prompts_and_responses(rollouts)])
        if utility is not None and self.spec.by_ratings:
            wins, known = bradley_terry(self.spec.scale * utility.astype(np.float64)), 0
        else:
            wins, known = self._preferred(rollouts, n)
        if utility is None:
            given = ~np.isnan(wins)
            utility = (np.where(given, wins, 0.0).sum(-1) / np.maximum(given.sum(-1), 1)).astype(np.float32)
        else:
            known += int((~np.isnan(utility)).sum())
        return Scored(rollouts, utility, wins.astype(np.float32), counts={"judge/queries": known})

    def close(self) -> None:
        """Nothing is held."""

    def _preferred(self, rollouts: Rollouts, n: int) -> tuple[np.ndarray, int]:
        """wins float64 [B, N, N] of the labelled pairs, and how many prompts have a label."""
        wins = np.full((len(rollouts.prompts), n, n), np.nan)
        wins[:, np.arange(n), np.arange(n)] = 0.5
        known = 0
        for b, (prompt, responses) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True)):
            i, j = (self._index(prompt, responses, name) for name in (self.spec.first, self.spec.second))
            p = self._preference(prompt)
            wins[b, i, j], wins[b, j, i] = p, 1 - p
            known += not math.isnan(p)
        return wins, known

    def _preference(self, prompt: Prompt) -> float:
        if self.spec.strength is not None:
            strength = _label(prompt, self.spec.strength, f"scorer.strength={self.spec.strength}")
            return float(sigmoid(self.spec.scale * strength))
        if self.spec.preference is None:
            return 1.0
        key = f"scorer.preference={self.spec.preference}"
        value = _label(prompt, self.spec.preference, key)
        if not math.isnan(value) and not 0 <= value <= 1:
            raise ValueError(f"{key} must be P(first beats second), a number in [0, 1], got {value} in {prompt.id!r}")
        return value

    def _rating(self, prompt: Prompt, response: Response) -> float:
        name = response.draw.name
        if name not in self.spec.ratings:
            raise ValueError(
                f"scorer.ratings must name a column for every draw, and has none for {name!r} "
                f"({', '.join(self.spec.ratings)}). Fix: add it."
            )
        return _label(prompt, self.spec.ratings[name], f"scorer.ratings.{name}={self.spec.ratings[name]}")

    def _index(self, prompt: Prompt, responses: tuple[Response, ...], name: str) -> int:
        found = [k for k, response in enumerate(responses) if response.draw.name == name]
        if len(found) != 1:
            draws = ", ".join(response.draw.name for response in responses)
            raise ValueError(
                f"scorer=recorded needs one answer of the draw {name!r} to each prompt, and {prompt.id!r} has "
                f"{len(found)} (draws: {draws}). Fix: correct scorer.first and scorer.second, or sampler.draws."
            )
        return found[0]


def _label(prompt: Prompt, column: str, key: str) -> float:
    """A number in the prompt's row; NaN for null. Raises ValueError if there is no such column, or no number in it."""
    if column not in prompt.meta:
        raise ValueError(
            f"{key} must be a column of the prompts, and {prompt.id!r} has only {', '.join(prompt.meta) or 'none'}. "
            f"Fix: name one of these with {key.partition('=')[0]}=…, or remove the row."
        )
    value = prompt.meta[column]
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return float(value)
    if not is_number(value) or not isinstance(value, int | float):
        raise ValueError(
            f"{key} must hold numbers, true, false or null; {prompt.id!r} has {value!r}. "
            "Fix: correct or remove the row."
        )
    return float(value)
