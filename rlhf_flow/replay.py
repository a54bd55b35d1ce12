"""Which past rounds the learner replays, and how many of their pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Window:
    """The pairs of the newest `size` rounds, including the present one. 1: on-policy."""

    size: int = 1  # rounds, including the present one

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"replay.size must be >= 1, got {self.size}. Use 1 to train on the present round only.")

    def rounds(self, round: int) -> Mapping[int, float]:
        return dict.fromkeys(range(max(1, round - self.size + 1), round + 1), math.inf)


@dataclass(frozen=True)
class All:
    """The pairs of all rounds so far. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, algorithm 2."""

    def rounds(self, round: int) -> Mapping[int, float]:
        return dict.fromkeys(range(1, round + 1), math.inf)


@dataclass(frozen=True)
class Decay:
    """All pairs of the present round, and a decreasing share of earlier ones.

    Direct Nash Optimization, Rosset et al. 2024, arXiv:2404.03715: at most 30 % from the previous round, 15 % from the
    one before it.
    """

    # maximum pairs of earlier rounds, newest first, as shares of the present round's; older rounds: none
    shares: list[float] = field(default_factory=lambda: [0.3, 0.15])  # maximum pairs of earlier rounds, newest first

    def __post_init__(self) -> None:
        if not self.shares:
            raise ValueError(
                "replay.shares must hold at least one share, got none. Fix: replay=window, for no past rounds."
            )
        for share in self.shares:
            if not share > 0:
                raise ValueError(
                    f"replay.shares must be > 0, got {share}. Fix: leave it out, for no pairs of that round."
                )

    def rounds(self, round: int) -> Mapping[int, float]:
        past = {round - age: share for age, share in enumerate(self.shares, start=1) if round > age}
        return {**dict(reversed(past.items())), round: math.inf}


PARTS: dict[str, type] = {"window": Window, "all": All, "decay": Decay}
