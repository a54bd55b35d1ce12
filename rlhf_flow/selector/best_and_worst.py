"""The best answer against the worst. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, section 3.2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_flow.selector.one_pair import Choice, OnePair
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class BestAndWorst(OnePair):
    """The responses of highest and of lowest utility; among equals the first drawn.

    Responses of equal utility are a tie. Who won the pair is said by `wins`, head to head, as for every selector: a
    judge that can cycle may prefer the worst to the best. Responses without a utility (the judge abstained) are passed
    over while there are two with one.
    """

    def select(self, scored: Scored) -> Selection:
        def choose(b: int, left: list[int]) -> Choice:
            utility = scored.utility[b]
            ranked = [k for k in left if not np.isnan(utility[k])]
            if len(ranked) < 2:
                return Choice(left[0], left[1])
            best = max(ranked, key=lambda k: (utility[k], -k))
            worst = min((k for k in ranked if k != best), key=lambda k: (utility[k], k))
            return Choice(best, worst, tied=bool(utility[best] == utility[worst]))

        return self.pairs(scored, choose)
