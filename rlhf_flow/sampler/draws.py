"""Any list of draws, each with its own source: policies, mixtures and the answers that prompts came with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.protocols import Engine
from rlhf_flow.sampler.source import Source, check_names, side_by_side
from rlhf_flow.types import Policy, Prompt, Rollouts, SamplingParams


@dataclass(frozen=True)
class DrawsSampler:
    """Draws that stand side by side: N is the sum of their n. `rlhf_flow.sampler.source` says what each may be."""

    draws: list[Source] = field(default_factory=lambda: [Source()])  # each from a source of its own, side by side

    def __post_init__(self) -> None:
        check_names("sampler.draws", self.draws)

    @property
    def sources(self) -> Mapping[str, str]:
        return {source.name: source.source for source in self.draws}

    @property
    def drawn(self) -> Mapping[str, SamplingParams]:
        return {f"sampler.draws.{at}": source for at, source in enumerate(self.draws)}

    @property
    def roles(self) -> frozenset[str]:
        return frozenset().union(*(source.roles for source in self.draws))

    @property
    def needs_mixture(self) -> bool:
        return any(source.weight is not None for source in self.draws)

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Rollouts:
        """Responses [B, N], draw after draw in the order of `draws`."""
        return side_by_side(self.draws, engine, prompts, policies, round=round, seed=seed)
