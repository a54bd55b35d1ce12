"""The engine of a run that draws no answer: all of them came with the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams


@dataclass(frozen=True)
class NoEngine:
    """No engine: for runs whose answers all come from a data set. It loads nothing and refuses to generate."""

    @property
    def gpus(self) -> int:
        return 0

    @property
    def needs_own_process(self) -> bool:
        return False

    @property
    def can_mix(self) -> bool:
        return False

    def max_sequence(self, positions: int | None) -> int | None:
        return positions

    def sized(self, longest: int) -> NoEngine:
        return self

    def check(self) -> None:
        """There is nothing that could be missing."""

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> IdleEngine:
        return IdleEngine()


class IdleEngine:
    """Nobody at work."""

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """Raises ValueError, always."""
        raise ValueError(
            f"engine=none draws no answers, and draw {draw.name!r} asks for some. Try engine=vllm, or policy=dataset "
            "for every draw."
        )

    def step_aside(self) -> None:
        """Nothing is held."""

    def come_back(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""
