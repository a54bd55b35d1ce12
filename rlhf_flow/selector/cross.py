"""The responses of one draw against those of another.

The policy's against the reference's in XPO, Xie et al. 2024, arXiv:2405.21046; against the mixture's in Nash-MD,
Munos et al. 2023, arXiv:2312.00886.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product, starmap

from rlhf_flow.selector.pairing import Choice, Pairing, check_named
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class Cross(Pairing):
    """Every response of the draw `first` with every one of the draw `second`. Other draws are not paired."""

    first: str = "policy"  # the draw of the first side
    second: str = "reference"  # the draw of the second side
    keep_order: bool = True  # Pair.first is always of the draw `first`; false: the winner is first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first == self.second:
            raise ValueError(
                f"selector.first and selector.second must be two draws, got {self.first!r} for both. "
                "Fix: selector=all_pairs, for pairs within a draw."
            )
        if self.among is not None:
            raise ValueError(
                f"selector.among must be null for selector=cross, which pairs {self.first} with {self.second}, got "
                f"{', '.join(self.among)}. Fix: set selector.first and selector.second."
            )

    @property
    def first_draw(self) -> str | None:
        return self.first if self.keep_order else None

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError unless the sampler has both draws."""
        check_named("first", [self.first], counts)
        check_named("second", [self.second], counts)
        super().check(counts)

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """Every response of one draw with every one of the other."""
        return counts[self.first] * counts[self.second]

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> starmap[Choice]:
            names = [one.draw.name for one in scored.rollouts.responses[b]]
            sides = ([k for k in left if names[k] == side] for side in (self.first, self.second))
            return starmap(Choice, product(*sides))

        return self.pairs(scored, choose, keep_order=self.keep_order)
