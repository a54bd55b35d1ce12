"""All responses to a prompt as one training example, for objectives of groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.selector.pairing import Pairing
from rlhf_flow.selector.worth import worths
from rlhf_flow.types import Pair, Scored, Selection


@dataclass(frozen=True)
class Group(Pairing):
    """One group per prompt: its responses with a worth, the best first; the first drawn, if several are equal.

    Labels are not read. The response of the draw `extra` is in no group: it is the third one of each. A prompt with
    fewer than two responses, or without the third, has no group (`no_pair`).
    """

    worth: str = "utility"  # wins | log_odds | utility | advantage | standardised: of a response
    order: str = "worth"  # worth (the best first) | drawn (as the sampler draws them)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ("worth", "drawn"):
            raise ValueError(f"selector.order must be worth or drawn, got {self.order!r}")

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One group per prompt."""
        return 1

    def select(self, scored: Scored) -> Selection:
        scored = penalised(scored, self.length_penalty, self.missing_eos_penalty)
        worth = worths(scored, self.worth, self.opponent).tolist()  # [B][N]
        pairs, buckets, counts = list[Pair](), dict[str, str](), Counter[str]()
        for b, responses in enumerate(scored.rollouts.responses):
            left, thirds = list[int](), list[str]()
            for k, one in enumerate(responses):
                bucket = scored.excluded.get(one.id) or self._out(one)
                if bucket is None and one.draw.name == self.extra:
                    thirds.append(one.id)
                    bucket = "extra"
                bucket = bucket or ("abstained" if self.order == "worth" and math.isnan(worth[b][k]) else None)
                if bucket is None and (self.among is None or one.draw.name in self.among):
                    left.append(k)
                buckets[one.id] = bucket or "not_selected"
            used = len(left) > 1 and (self.extra is None or bool(thirds))
            counts["used" if used else "no_pair"] += 1
            buckets |= dict.fromkeys([responses[k].id for k in left], "used" if used else "no_pair")
            if used:
                ranked = sorted(left, key=[-each for each in worth[b]].__getitem__)
                group = _group(scored, b, ranked if self.order == "worth" else left, worth[b])
                pairs.append(replace(group, extra=thirds[0] if thirds else None))
            else:
                buckets |= dict.fromkeys(thirds, "no_pair")
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
