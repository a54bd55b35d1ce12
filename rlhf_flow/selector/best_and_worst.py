"""The best response against the worst. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, section 3.2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class BestAndWorst(Pairing):
    """The responses of highest and lowest utility; the first drawn, if several are equal.

    If both utilities are equal, the pair is a tie. The winner is decided by `wins`, head to head, as in every selector:
    an intransitive judge may prefer the worst. Responses without a utility (the judge abstained) are skipped if at
    least two have one. The paper ranks with a length penalty of 0.001 per character.
    """

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One pair per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        return self.pairs(scored, best_and_worst)


def best_and_worst(scored: Scored, b: int, left: list[int]) -> list[Choice]:
    """The pair of the best and the worst of the responses `left`."""
    worth = {k: float(scored.utility[b, k]) for k in left if not math.isnan(scored.utility[b, k])}
    if len(worth) < 2:
        return [Choice(left[0], left[1])]
    best = max(worth, key=lambda k: (worth[k], -k))
    worst = min((k for k in worth if k != best), key=lambda k: (worth[k], k))
    return [Choice(best, worst, tied=worth[best] == worth[worst])]
