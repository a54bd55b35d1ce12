"""All answers come from the geometric mixture of policy and reference, token by token.

Nash-MD, Munos et al. 2023, arXiv:2312.00886; for both answers of a pair: Calandriello et al. 2024, arXiv:2403.08635.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.protocols import Engine
from rlhf_flow.sampler.source import check_names, side_by_side, sourced
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams


@dataclass(frozen=True)
class MixtureSampler:
    """One draw from pi^(1 - weight) * pi_ref^weight, normalised at every token."""

    draw: SamplingParams = field(default_factory=lambda: SamplingParams(name="mixture", n=2))  # of the mixture
    weight: float = 0.125  # of the reference: 0 is the policy itself, 1 the reference
    decaying: bool = False  # 2 / (t + 2) in round t instead, as Nash-MD's theorem has it; weight is not read

    def __post_init__(self) -> None:
        check_names("sampler.draw", [self.draw])
        if not 0 <= self.weight <= 1:
            raise ValueError(
                f"sampler.weight must be in [0, 1], got {self.weight}. It is the reference's share: the papers use "
                "0.125 to 0.375."
            )

    @property
    def sources(self) -> Mapping[str, str]:
        return {self.draw.name: "mixture"}

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {"sampler.draw": self.draw}

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"policy", "reference"})

    @property
    def needs_mixture(self) -> bool:
        return True

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Rollouts:
        """Responses [B, N] of the mixture."""
        sources = [sourced(self.draw, weight=2 / (round + 2) if self.decaying else self.weight)]
        return side_by_side(sources, engine, prompts, policies, round=round, seed=seed)
