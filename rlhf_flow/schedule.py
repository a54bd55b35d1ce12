"""Which versions a round uses: where it starts, who answers, and the policies its loss is anchored to.

Rounds count from 1; round 0 is the start, whose policy is the checkpoint that the user named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_flow.types import Plan, RoundRecord


@dataclass(frozen=True)
class Fixed:
    """Every round goes on from the one before it; the reference stays the start."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> Plan:
        return Plan(round, init=round - 1, sampler=round - 1, anchors={"reference": 0})


@dataclass(frozen=True)
class EveryK:
    """Like `fixed`, but with a reference that is renewed: the newest policy before this round whose round k divides."""

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(
                f"schedule.k must be >= 1, got {self.k}. Use 1 for a new reference each round, "
                "or schedule=fixed to keep the start."
            )

    def at(self, round: int, records: Sequence[RoundRecord]) -> Plan:
        newest = (round - 1) // self.k * self.k
        return Plan(round, init=round - 1, sampler=round - 1, anchors={"reference": newest})


PARTS: dict[str, type] = {"fixed": Fixed, "every_k": EveryK}
