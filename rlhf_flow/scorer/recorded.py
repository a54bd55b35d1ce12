"""What a data set says of its own answers: preferences or ratings that came with the prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rlhf_flow.scorer.functions.loader import is_number
from rlhf_flow.scorer.pairwise import answers_each, bradley_terry
from rlhf_flow.specs import Place
from rlhf_flow.types import Prompt, Response, Rollouts, Scored


@dataclass(frozen=True)
class Recorded:
    """The label in the prompt's own row. Nobody is asked anything; a null abstains.

    P(answer of draw `first` beats answer of draw `second`) is a column: `preference` itself, or `strength`, how much
    better the first is, P = sigma(scale * strength); of all other pairs nothing is known. With `ratings` alone it is
    sigma(scale * (rating_i - rating_j)), of every two answers. With none of these columns the first won every time, as
    in data with one chosen and one rejected answer. An answer's rating is its utility, whatever the preference says.
    """

    first: str = "first"  # name of a draw (sampler.draws)
    second: str = "second"  # the draw with the second answer
    preference: str | None = None  # column: a number in [0, 1], true, false or null
    strength: str | None = None  # column: a number, negative where the second is better, 0 where neither is; or null
    ratings: dict[str, str] = field(default_factory=dict)  # draw -> column: a number or null
    scale: float = 1.0  # nats a point of strength or rating

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("second", "another draw than scorer.first", self.second != self.first),
            ("strength", "left empty with scorer.preference", self.preference is None or self.strength is None),
            ("scale", "> 0", self.scale > 0),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def intransitive(self) -> bool:
        return not self.by_ratings

    @property
    def by_ratings(self) -> bool:
        """Whether the ratings are all that says which of two answers is better."""
        return bool(self.ratings) and self.preference is None and self.strength is None

    @property
    def loads_model(self) -> bool:
        return False

    @property
    def cache_format(self) -> None:
        return None  # they are on disk

    def fingerprint(self) -> str:
        """The labels are part of the prompts, whose hash is kept."""
        return "recorded"

    def check(self) -> None:
        """What is missing shows in the rows alone."""

    def open(self, place: Place) -> RecordedJudge:
        return RecordedJudge(self)


@dataclass(frozen=True)
class RecordedJudge:
    """The labels of a data set, read."""

    spec: Recorded

    def score(self, rollouts: Rollouts) -> Scored:
        """Look up every label. `judge/queries` counts those that are there: each was asked for once.

        Raises ValueError, naming the prompt, for a label that is missing in the row or is none.
        """
        n = answers_each(rollouts)
        utility = self._rated(rollouts, n) if self.spec.ratings else None  # [B, N]
        if utility is not None and self.spec.by_ratings:
            with np.errstate(invalid="ignore"):  # of what has no rating nothing is known
                wins = bradley_terry(self.spec.scale * utility.astype(np.float64))
            known = 0
        else:
            wins, known = self._preferred(rollouts, n)
        if utility is None:
            there = ~np.isnan(wins)
            utility = (np.where(there, wins, 0.0).sum(-1) / np.maximum(there.sum(-1), 1)).astype(np.float32)
        else:
            known += int((~np.isnan(utility)).sum())
        return Scored(rollouts, utility, wins.astype(np.float32), counts={"judge/queries": known})

    def close(self) -> None:
        """Nothing is held."""

    def _preferred(self, rollouts: Rollouts, n: int) -> tuple[np.ndarray, int]:
        """What the rows say of their two answers, float64 [B, N, N], and how many say something."""
        wins = np.full((len(rollouts.prompts), n, n), np.nan)
        wins[:, np.arange(n), np.arange(n)] = 0.5
        known = 0
        for b, (prompt, responses) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True)):
            i, j = (self._place(prompt, responses, name) for name in (self.spec.first, self.spec.second))
            p = self._preference(prompt)
            wins[b, i, j], wins[b, j, i] = p, 1 - p
            known += not math.isnan(p)
        return wins, known

    def _rated(self, rollouts: Rollouts, n: int) -> np.ndarray:
        """The rating of every answer, float32 [B, N]; NaN where there is none."""
        found = [
            self._rating(prompt, response)
            for prompt, responses in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in responses
        ]
        return np.array(found, dtype=np.float32).reshape(len(rollouts.prompts), n)

    def _preference(self, prompt: Prompt) -> float:
        if self.spec.strength is not None:
            key = f"scorer.strength={self.spec.strength}"
            odds = self.spec.scale * _label(prompt, self.spec.strength, key)
            return odds if math.isnan(odds) else float(np.exp(-np.logaddexp(0.0, -odds)))
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
                f"({', '.join(self.spec.ratings)}). Add it."
            )
        return _label(prompt, self.spec.ratings[name], f"scorer.ratings.{name}={self.spec.ratings[name]}")

    def _place(self, prompt: Prompt, responses: tuple[Response, ...], name: str) -> int:
        places = [k for k, response in enumerate(responses) if response.draw.name == name]
        if len(places) != 1:
            there = ", ".join(response.draw.name for response in responses)
            raise ValueError(
                f"scorer=recorded needs one answer of the draw {name!r} to each prompt, and {prompt.id!r} has "
                f"{len(places)} (draws: {there}). Correct scorer.first and scorer.second, or sampler.draws."
            )
        return places[0]


def _label(prompt: Prompt, column: str, key: str) -> float:
    """A number of the prompt's row; NaN where it is null."""
    meta: Mapping[str, object] = prompt.meta
    if column not in meta:
        raise ValueError(
            f"{key} must be a column of the prompts, and {prompt.id!r} has only {', '.join(meta) or 'none'}. "
            f"Fix: name one of these with {key.partition('=')[0]}=…, or remove the row."
        )
    value = meta[column]
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
