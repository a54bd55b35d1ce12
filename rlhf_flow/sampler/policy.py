"""All answers come from the policy that the schedule names as the sampler, in any number of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.protocols import Engine
from rlhf_flow.sampler.source import check_names, side_by_side, sourced
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams


@dataclass(frozen=True)
class PolicySampler:
    """Draws from one policy. Several draws (temperatures, say) stand side by side: N is the sum of their n."""

    draws: list[SamplingParams] = field(default_factory=lambda: [SamplingParams(n=8)])  # of the policy, side by side

    def __post_init__(self) -> None:
        check_names("sampler.draws", self.draws)

    @property
    def sources(self) -> Mapping[str, str]:
        return {draw.name: "policy" for draw in self.draws}

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {f"sampler.draws.{at}": draw for at, draw in enumerate(self.draws)}

    @property
    def roles(self) -> frozenset[str]:
        return frozenset({"policy"})

    @property
    def needs_mixture(self) -> bool:
        return False

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Rollouts:
        """Responses [B, N], draw after draw in the order of `draws`."""
        return side_by_side([sourced(draw) for draw in self.draws], engine, prompts, policies, round=round, seed=seed)
