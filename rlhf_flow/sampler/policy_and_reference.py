"""Answers of the policy beside answers of the reference. XPO, Xie et al. 2024, arXiv:2405.21046, algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.protocols import Engine
from rlhf_flow.sampler.source import check_names, side_by_side, sourced
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams


@dataclass(frozen=True)
class PolicyAndReference:
    """One draw from each: the policy's answers first."""

    policy: SamplingParams = field(default_factory=lambda: SamplingParams(name="policy", n=1))  # of the policy
    reference: SamplingParams = field(default_factory=lambda: SamplingParams(name="reference", n=1))  # of the reference

    def __post_init__(self) -> None:
        check_names("sampler.policy and sampler.reference", [self.policy, self.reference])

    @property
    def sources(self) -> Mapping[str, str]:
        return {self.policy.name: "policy", self.reference.name: "reference"}

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {"sampler.policy": self.policy, "sampler.reference": self.reference}

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"policy", "reference"})

    @property
    def needs_mixture(self) -> bool:
        return False

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Rollouts:
        """Responses [B, N]: the policy's, then the reference's."""
        sources = [sourced(self.policy), sourced(self.reference, "reference")]
        return side_by_side(sources, engine, prompts, policies, round=round, seed=seed)
