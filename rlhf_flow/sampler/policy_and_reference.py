"""Responses of the policy and of the reference. XPO, Xie et al. 2024, arXiv:2405.21046, algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.sampler.source import Source, SourcesSampler, sourced
from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class PolicyAndReference(SourcesSampler):
    """One draw from each, the policy's first."""

    policy: SamplingParams = field(default_factory=lambda: SamplingParams(name="policy", n=1))  # of the policy
    reference: SamplingParams = field(default_factory=lambda: SamplingParams(name="reference", n=1))  # of the reference

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {"sampler.policy": self.policy, "sampler.reference": self.reference}

    def at(self, round: int) -> Sequence[Source]:
        return [sourced(self.policy), sourced(self.reference, "reference")]
