"""The best response against the worst. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, section 3.2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rlhf_flow.selector.pairing import Choice, Pairing, check_named
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class BestAndWorst(Pairing):
    """The responses of highest and lowest utility; the first drawn, if several are equal.

    If both utilities are equal, the pair is a tie. The winner is decided by `wins`, head to head, as in every selector:
    an intransitive judge may prefer the worst. Responses without a utility (the judge abstained) are skipped if at
    least two have one. The paper ranks with a length penalty of 0.001 per character. The best and the worst may be of
    other draws; a best that is not above the worst gives no pair (`not_beaten`).
    """

    best_of: list[str] | None = None  # the draws of the best; null: all
    worst_of: list[str] | None = None  # the draws of the worst; null: all

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError if the sampler lacks a draw."""
        check_named("best_of", self.best_of or [], counts)
        check_named("worst_of", self.worst_of or [], counts)
        super().check(counts)

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One pair per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        return self.pairs(scored, best_and_worst if self.best_of is self.worst_of is None else self._of_draws)

    def _of_draws(self, scored: Scored, b: int, left: list[int]) -> list[Choice]:
        names, worth = [one.draw.name for one in scored.rollouts.responses[b]], scored.utility[b]
        known = [k for k in left if not math.isnan(worth[k])]
        best = max((k for k in known if self.best_of is None or names[k] in self.best_of), default=None, key=_at(worth))
        others = [k for k in known if k != best and (self.worst_of is None or names[k] in self.worst_of)]
        if best is None or not others:
            return []
        worst = min(others, key=_at(worth))
        return [Choice(best, worst, refused=None if worth[best] > worth[worst] else "not_beaten")]


def best_and_worst(scored: Scored, b: int, left: list[int]) -> list[Choice]:
    """The pair of the best and the worst of the responses `left`."""
    worth = {k: float(scored.utility[b, k]) for k in left if not math.isnan(scored.utility[b, k])}
    if len(worth) < 2:
        return [Choice(left[0], left[1])]
    best = max(worth, key=lambda k: (worth[k], -k))
    worst = min((k for k in worth if k != best), key=lambda k: (worth[k], k))
    return [Choice(best, worst, tied=worth[best] == worth[worst])]


def _at(worth: np.ndarray) -> Callable[[int], float]:
    return lambda k: float(worth[k])
