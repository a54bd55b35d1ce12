"""Which past rounds the learner still sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """The pairs of the newest `size` rounds, the present one included. 1: on-policy, nothing is kept."""

    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"memory.size must be >= 1, got {self.size}. Use 1 to learn from the present round alone.")

    def rounds(self, round: int) -> tuple[int, ...]:
        return tuple(range(max(1, round - self.size + 1), round + 1))


PARTS: dict[str, type] = {"window": Window}
