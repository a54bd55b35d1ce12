"""Every response as a training example of its own, for objectives of single responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_flow.selector.pairing import Pairing
from rlhf_flow.types import Pair, Scored, Selection


@dataclass(frozen=True)
class Single(Pairing):
    """One training example per response: a group of one. Scores are not read."""

    @property
    def order(self) -> str:
        return "drawn"

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError if `among` names no draw."""
        self.check_draws(counts)

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """One example per response."""
        return self.paired(counts)

    def select(self, scored: Scored) -> Selection:
        examples, buckets = list[Pair](), dict[str, str]()
        for prompt, responses in zip(scored.rollouts.prompts, scored.rollouts.responses, strict=True):
            for one in responses:
                bucket = scored.excluded.get(one.id) or self._out(one)
                if bucket is None and self.among is not None and one.draw.name not in self.among:
                    bucket = "not_selected"
                buckets[one.id] = bucket or "used"
                if bucket is None:
                    examples.append(Pair(prompt.id, first=one.id, second=None, preference=1.0))
        counts = {"used": len(examples), "no_pair": len(buckets) - len(examples)}
        return Selection(tuple(examples), buckets, {name: number for name, number in counts.items() if number})
