"""All responses to a prompt as one training example, for objectives of groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.selector.pairing import Pairing
from rlhf_flow.selector.worth import worths
from rlhf_flow.types import Pair, Scored, Selection


@dataclass(frozen=True)
class Group(Pairing):
    """One group per prompt: its responses with a worth, the best first; the first drawn, if several are equal.

    Labels are not read. A prompt with fewer than two such responses has no group (`no_pair`).
    """

    worth: str = "utility"  # of a response: wins, log_odds, utility, advantage, standardised

    @property
    def makes_groups(self) -> bool:
        return True

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One group per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        scored = penalised(scored, self.length_penalty, self.missing_eos_penalty)
        worth = worths(scored, self.worth, self.opponent).tolist()  # [B][N]
        pairs, buckets, counts = list[Pair](), dict[str, str](), Counter[str]()
        for b, responses in enumerate(scored.rollouts.responses):
            left = []
            for k, one in enumerate(responses):
                bucket = scored.excluded.get(one.id) or self._out(one)
                bucket = bucket or ("abstained" if math.isnan(worth[b][k]) else None)
                if bucket is None and (self.among is None or one.draw.name in self.among):
                    left.append(k)
                buckets[one.id] = bucket or "not_selected"
            counts["used" if len(left) > 1 else "no_pair"] += 1
            for k in left:
                buckets[responses[k].id] = "used" if len(left) > 1 else "no_pair"
            if len(left) > 1:
                order = sorted(left, key=[-each for each in worth[b]].__getitem__)
                pairs.append(_group(scored, b, order, worth[b]))
        return Selection(tuple(pairs), response_buckets=buckets, pair_counts=dict(counts))


def _group(scored: Scored, b: int, order: list[int], worth: list[float]) -> Pair:
    responses = scored.rollouts.responses[b]
    first, second, *others = (responses[k] for k in order)
    mass = tuple(responses[k].mass for k in order)
    return Pair(
        scored.rollouts.prompts[b].id,
        first=first.id,
        second=second.id,
        preference=1.0 if worth[order[0]] > worth[order[1]] else 0.5,
        worth=tuple(worth[k] for k in order),
        others=tuple(one.id for one in others),
        mass=None if set(mass) == {1.0} else mass,
    )
