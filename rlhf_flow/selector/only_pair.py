"""Two answers, one pair."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.selector.one_pair import Choice, OnePair
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class OnlyPair(OnePair):
    """The pair of the two responses that each prompt has; any other number is refused."""

    def check(self, n: int) -> None:
        """Raise ValueError unless there are `n` = 2 responses per prompt."""
        if n != 2:
            raise ValueError(
                f"selector=only_pair needs exactly 2 responses per prompt, and the sampler draws {n}. "
                "Draw 2, or use selector=best_and_worst or selector=random."
            )

    def select(self, scored: Scored) -> Selection:
        for responses in scored.rollouts.responses:
            self.check(len(responses))
        return self.pairs(scored, lambda b, left: Choice(left[0], left[1]))
