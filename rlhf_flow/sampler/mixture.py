"""All responses are sampled from the geometric mixture of policy and reference, token by token.

Nash-MD, Munos et al. 2023, arXiv:2312.00886; for both responses of a pair: Calandriello et al. 2024, arXiv:2403.08635.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.sampler.source import Source, SourcesSampler, sourced
from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class MixtureSampler(SourcesSampler):
    """One draw from pi^(1 - weight) * pi_ref^weight, normalised at every token."""

    draw: SamplingParams = field(default_factory=lambda: SamplingParams(name="mixture", n=2))  # of the mixture
    weight: float = 0.125  # of the reference: 0 is the policy, 1 the reference
    decaying: bool = False  # use 2 / (t + 2) in round t, as Nash-MD's theorem does; weight is unused

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(
                f"sampler.weight must be in [0, 1], got {self.weight}. It is the reference's share: the papers use "
                "0.125 to 0.375."
            )
        super().__post_init__()

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {"sampler.draw": self.draw}

    def at(self, round: int) -> Sequence[Source]:
        return [sourced(self.draw, weight=2 / (round + 2) if self.decaying else self.weight)]
