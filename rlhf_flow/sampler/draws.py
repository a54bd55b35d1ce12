"""Any list of draws, each from its own source: policies, mixtures and the candidates of the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_flow.sampler.source import Source, SourcesSampler


@dataclass(frozen=True)
class DrawsSampler(SourcesSampler):
    """Responses [B, N], where N is the sum of the draws' n. `rlhf_flow.sampler.source` describes a draw."""

    draws: list[Source] = field(default_factory=lambda: [Source()])  # each from a source of its own

    @property
    def drawn(self) -> Mapping[str, Source]:
        return {f"sampler.draws.{at}": source for at, source in enumerate(self.draws)}

    def at(self, round: int) -> Sequence[Source]:
        return self.draws
