"""All responses are sampled from the policy that the schedule names, in any number of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.sampler.source import Source, SourcesSampler, sourced
from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class PolicySampler(SourcesSampler):
    """Draws from one policy, at different temperatures for example. N is the sum of their n."""

    draws: list[SamplingParams] = field(default_factory=lambda: [SamplingParams(n=2)])  # of the policy

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {f"sampler.draws.{at}": draw for at, draw in enumerate(self.draws)}

    def at(self, round: int) -> Sequence[Source]:
        return [sourced(draw) for draw in self.draws]
