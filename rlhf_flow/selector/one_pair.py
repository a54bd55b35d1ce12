"""One pair a prompt: the bookkeeping of every selector that looks for two responses to compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rlhf_flow.selector.label import LABELS, labelled
from rlhf_flow.types import Scored, Selection

TRUNCATED = ("keep", "drop")


@dataclass(frozen=True)
class Choice:
    """Two responses of a prompt, by their index k, and whether the selector could not tell them apart."""

    first: int
    second: int
    tied: bool = False


# (index of the prompt, indices of the responses that may be chosen, at least two) -> what is chosen
Choose: TypeAlias = Callable[[int, list[int]], Choice]


@dataclass(frozen=True)
class OnePair:
    """The fields that selectors of one pair share.

    Buckets of responses: `used`, `used_tie`, `tie`, `identical`, `abstained` (of the considered pair, for both sides),
    `not_selected`, `truncated`, `no_pair` (fewer than two were left to choose from). Every prompt considers one pair,
    which has one of the same buckets; `no_pair` where none could be formed.
    """

    label: str = "hard"  # hard | soft | sampled: rlhf_flow.selector.label
    truncated: str = "drop"  # drop: an answer that was cut by max_tokens is in no pair; keep: it is like any other

    def __post_init__(self) -> None:
        for key, allowed in (("label", LABELS), ("truncated", TRUNCATED)):
            if vars(self)[key] not in allowed:
                raise ValueError(f"selector.{key} must be one of {', '.join(allowed)}, got {vars(self)[key]!r}")

    def check(self, n: int) -> None:
        """Raise ValueError where `n` responses per prompt cannot give a pair."""
        if n < 2:
            raise ValueError(f"a pair needs at least 2 responses per prompt, and the sampler draws {n}. Raise its n.")

    def pairs(self, scored: Scored, choose: Choose) -> Selection:
        """Let `choose` pick two responses of each prompt, label them, and account for all responses."""
        rollouts = scored.rollouts
        pairs, buckets, counts = [], {}, Counter[str]()
        for b, (prompt, responses) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True)):
            left = [k for k, one in enumerate(responses) if self.truncated == "keep" or not one.truncated]
            buckets.update({one.id: "not_selected" if k in left else "truncated" for k, one in enumerate(responses)})
            if len(left) < 2:
                buckets.update({responses[k].id: "no_pair" for k in left})
                counts["no_pair"] += 1
                continue
            chosen = choose(b, left)
            sides = responses[chosen.first], responses[chosen.second]
            wins = float(scored.wins[b, chosen.first, chosen.second])
            bucket, pair = labelled(self.label, prompt, sides, wins=wins, tied=chosen.tied)
            buckets.update({side.id: bucket for side in sides})
            counts[bucket] += 1
            if pair is not None:
                pairs.append(pair)
        return Selection(tuple(pairs), response_buckets=buckets, pair_counts=dict(counts))
