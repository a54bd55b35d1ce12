"""Statistical rejection sampling: answers of the reference become answers of the optimal policy.

RSO, Liu et al. 2023, arXiv:2309.06657, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class Rejection(Pairing):
    """Accepts answers with probability exp((u - the largest u left) / beta), and pairs the accepted ones in turn.

    u is the utility. Accepted answers of pi_ref follow pi_ref exp(u / beta), as far as the number of answers allows:
    beta = 0 takes the best ones, a large beta any. Answers are tried in a seeded order until `accept` are accepted.
    """

    beta: float = 0.5  # units of utility
    accept: int = 8  # answers of a prompt to accept: half as many pairs

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta >= 0:
            raise ValueError(f"selector.beta must be >= 0, got {self.beta}: the units of utility that e-fold a chance.")
        if self.accept < 2:
            raise ValueError(f"selector.accept must be >= 2, got {self.accept}: two answers make a pair.")

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """Half the accepted answers."""
        return min(self.accept, self.paired(counts)) // 2

    def select(self, scored: Scored) -> Selection:
        def choose(scored: Scored, b: int, left: list[int]) -> list[Choice]:
            accepted = self._accepted(scored, b, left)
            return [Choice(one, other) for one, other in zip(accepted[::2], accepted[1::2], strict=False)]

        return self.pairs(scored, choose)

    def _accepted(self, scored: Scored, b: int, left: list[int]) -> list[int]:
        rollouts = scored.rollouts
        random = np.random.default_rng(
            derive("rejection", rollouts.round, rollouts.prompts[b].id, rollouts.responses[b][0].seed)
        )
        utility = {k: float(scored.utility[b, k]) for k in left if not math.isnan(scored.utility[b, k])}
        waiting, accepted = random.permutation(sorted(utility)).tolist(), list[int]()
        while waiting and len(accepted) < self.accept:
            best = max(utility[k] for k in waiting)
            for k in list(waiting):
                chance = math.exp((utility[k] - best) / self.beta) if self.beta else float(utility[k] == best)
                if len(accepted) < self.accept and random.random() < chance:
                    accepted.append(k)
                    waiting.remove(k)
        return accepted
