"""The answers of one draw against those of another.

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
    """Every response of the draw `first` with every one of the draw `second`; those of other draws are in no pair."""

    first: str = "policy"  # the names of two draws
    second: str = "reference"  # the draw of the second side
    keep_order: bool = True  # Pair.first is of the draw `first`, whoever won; false: the winner is first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first == self.second:
            raise ValueError(
                f"selector.first and selector.second must be two draws, got {self.first!r} for both. "
                "Try selector=all_pairs for the pairs within a draw."
            )
        if self.among is not None:
            raise ValueError(
                f"selector.among must be null for selector=cross, which pairs {self.first} with {self.second}, got "
                f"{', '.join(self.among)}. Set selector.first and selector.second."
            )

    @property
    def keeps_order(self) -> bool:
        return self.keep_order

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError unless both draws are drawn."""
        check_named("first", [self.first], counts)
        check_named("second", [self.second], counts)
        super().check(counts)

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> starmap[Choice]:
            names = [one.draw.name for one in scored.rollouts.responses[b]]
            sides = ([k for k in left if names[k] == side] for side in (self.first, self.second))
            return starmap(Choice, product(*sides))

        return self.pairs(scored, choose, keep_order=self.keep_order)
