"""All answers come from the policy that the plan names as the sampler, in any number of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.protocols import Engine
from rlhf_flow.types import Draw, Plan, Policy, Prompt, Rollouts


@dataclass(frozen=True)
class PolicySampler:
    """Draws from one policy. Several draws (temperatures, say) stand side by side: N is the sum of their n."""

    draws: list[Draw] = field(default_factory=lambda: [Draw(n=8)])

    def __post_init__(self) -> None:
        names = [draw.name for draw in self.draws]
        if not names:
            raise ValueError("sampler.draws must hold at least one draw, got none")
        slashed = [name for name in names if "/" in name]
        if slashed:
            raise ValueError(f"sampler.draws: a name must not hold '/', which parts response ids, got {slashed[0]!r}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"sampler.draws must have different names, got {', '.join(repeated)} more than once: draws of one name "
                f"would give the same answers. Name each draw."
            )

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], plan: Plan, *, seed: int
    ) -> Rollouts:
        """Responses [B, N] from `policies["sampler"]`, draw after draw in the order of `draws`."""
        parts = [
            engine.generate(prompts, policies["sampler"], draw, round=plan.round, seed=seed) for draw in self.draws
        ]
        groups = zip(*(part.responses for part in parts), strict=True)
        return Rollouts(plan.round, tuple(prompts), tuple(sum(group, ()) for group in groups))
