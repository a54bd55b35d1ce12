"""Pairs of named draws. PILAF, Feng et al. 2025, arXiv:2502.04270, pairs the policy with itself and two sides of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

from rlhf_flow.selector.pairing import Choice, Pairing, check_named
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class Couples(Pairing):
    """Every response of one draw with every one of another, for each couple; within a draw, every two responses."""

    couples: list[list[str]] = field(default_factory=lambda: [["policy", "policy"]])  # two draws each

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.couples or any(len(each) != 2 for each in self.couples):
            raise ValueError(
                f"selector.couples must hold lists of two draws, got {self.couples}. Fix: [[policy, policy]]."
            )

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError if the sampler lacks a draw, or has one response of a draw that is paired with itself."""
        super().check(counts)
        check_named("couples", [name for couple in self.couples for name in couple], counts)
        for one, other in self.couples:
            if one == other and counts[one] < 2:
                raise ValueError(f"selector.couples pairs {one} with itself, and its n is {counts[one]}. Fix: n: 2.")

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """The pairs of all couples."""
        return sum(
            counts[one] * (counts[one] - 1) // 2 if one == other else counts[one] * counts[other]
            for one, other in self.couples
        )

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> Iterator[Choice]:
            names = [one.draw.name for one in scored.rollouts.responses[b]]
            for one, other in self.couples:
                mine, theirs = ([k for k in left if names[k] == name] for name in (one, other))
                pairs = combinations(mine, 2) if one == other else product(mine, theirs)
                yield from (Choice(*pair) for pair in pairs)

        return self.pairs(scored, choose)
