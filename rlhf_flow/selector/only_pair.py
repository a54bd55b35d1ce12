"""The pair of two responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class OnlyPair(Pairing):
    """The pair of the two responses to each prompt. Any other number is an error."""

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError unless there are 2 responses per prompt."""
        _two(self.paired(counts))
        super().check(counts)

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One pair per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        for responses in scored.rollouts.responses:
            _two(self.paired(Counter(one.draw.name for one in responses)))
        return self.pairs(scored, lambda _, b, left: [Choice(left[0], left[1])])


def _two(n: int) -> None:
    if n != 2:
        raise ValueError(
            f"selector=only_pair needs exactly 2 responses per prompt, and the sampler draws {n}. Fix: draw 2; or "
            "selector=best_and_worst or random; or choose the draws to pair with selector.among."
        )
