"""All pairs of the responses to a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, starmap

from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class AllPairs(Pairing):
    """The pairs i < j of the responses of each prompt: N (N - 1) / 2 of them."""

    def select(self, scored: Scored) -> Selection:
        return self.pairs(scored, lambda _, b, left: starmap(Choice, combinations(left, 2)))
