"""The engine of a run that generates no answers, because all of them come from the data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams


@dataclass(frozen=True)
class NoEngine:
    """No engine, for runs whose answers all come from the data set. It loads no model."""

    gpus: ClassVar[int] = 0
    needs_own_process: ClassVar[bool] = False
    can_mix: ClassVar[bool] = False

    def max_sequence(self, positions: int | None) -> int | None:
        return positions

    def sized(self, longest: int) -> NoEngine:
        return self

    def check(self) -> None:
        """It needs no package."""

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> RefusingEngine:
        return RefusingEngine()


class RefusingEngine:
    """Refuses to generate."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Raises ValueError, always."""
        raise ValueError(
            f"engine=none: it generates no answers, and draw {draw.name!r} asks for some. "
            "Fix: engine=vllm, or policy=dataset in every draw."
        )

    def step_aside(self) -> None:
        """It holds nothing."""

    def come_back(self) -> None:
        """It holds nothing."""

    def close(self) -> None:
        """It holds nothing."""
