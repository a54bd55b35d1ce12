"""Two random responses, so that pairs follow the sampler's distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class Random(Pairing):
    """Two responses of each prompt, seeded by its id, the round and the seed of its first response."""

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One pair per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> list[Choice]:
            rollouts = scored.rollouts
            seed = derive("pair", rollouts.round, rollouts.prompts[b].id, rollouts.responses[b][0].seed)
            first, second = np.random.default_rng(seed).choice(left, size=2, replace=False)
            return [Choice(int(first), int(second))]

        return self.pairs(scored, choose)
