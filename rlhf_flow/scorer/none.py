"""The scorer of a run whose loss reads no scores, such as supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf_flow.scorer.pairwise import answers_each
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored


@dataclass(frozen=True)
class NoScorer:
    """No scorer, for selector=single. It loads no model and abstains on everything."""

    loads_model: ClassVar[bool] = False
    cache_format: ClassVar[None] = None
    intransitive: ClassVar[bool] = False

    def fingerprint(self) -> str:
        return "none"

    def check(self) -> None:
        """It needs no package."""

    def open(self, place: Place) -> AbstainingScorer:
        return AbstainingScorer()


class AbstainingScorer:
    """Abstains on every response and pair."""

    def score(self, rollouts: Rollouts) -> Scored:
        """Utility and wins are NaN, with 1/2 of a response against itself."""
        n = answers_each(rollouts)
        wins = np.full((len(rollouts.prompts), n, n), np.nan, dtype=np.float32)
        wins[:, np.arange(n), np.arange(n)] = 0.5
        return Scored(rollouts, np.full(wins.shape[:2], np.nan, dtype=np.float32), wins)

    def close(self) -> None:
        """It holds nothing."""
