"""From the pairs that a selector considers to those that are learned from: the bookkeeping of all selectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rlhf_flow.selector.label import LABELS, labelled
from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.selector.win_rates import win_rates
from rlhf_flow.types import Pair, Response, Scored, Selection

KEEP_OR_DROP = ("keep", "drop")
WORTHS = ("wins", "utility")

# The bucket of a response that is in several considered pairs is the first of these that one of them has.
BUCKETS = (
    "used",
    "used_tie",  # in a pair of preference 1/2
    "extra",  # in no pair that is used, but the third response of one
    "tie",
    "low_margin",  # too close to 1/2
    "identical",
    "inconsistent",  # no verdict, for the two orders contradict
    "overdue",  # nor here, for people did not answer in time
    "capped",  # nor here, for the judge's budget was spent
    "unasked",  # nor here, for the judge did not compare them to save comparisons
    "abstained",  # nor here, for any other reason; or nobody knows the worth of one of them
    "not_beaten",
    "below_margin",
    "below_floor",
    "not_selected",  # in no considered pair
    "no_pair",  # of a prompt that considers no pair
    "too_long",
    "truncated",
    "mismatched",  # too far from the policy that learns: rlhf_flow.metrics.off_policy
    "stale",
)
REASONS = ("inconsistent", "overdue", "capped", "unasked")  # the names of `Scored.marks` that a pair is counted under
_RANK = {bucket: rank for rank, bucket in enumerate(BUCKETS)}


@dataclass(frozen=True)
class Choice:
    """A considered pair: two responses of a prompt, by their index k, and what the selector itself says of them."""

    first: int
    second: int
    tied: bool = False  # it cannot tell them apart
    wins: float | None = None  # P(first beats second), where that is not what the judge says head to head
    refused: str | None = None  # the bucket of a pair that is not to be used


# (all responses as the penalty has them scored, index of the prompt, indices of those of its responses that may be
# chosen, at least two) -> the pairs that are considered
Choose: TypeAlias = Callable[[Scored, int, list[int]], Iterable[Choice]]


@dataclass(frozen=True)
class Pairing:
    """The fields that all selectors share.

    Every considered pair has one bucket, and so has every response: `BUCKETS` says which where it is in several pairs.
    A prompt without a considered pair counts as one pair `no_pair`: fewer than two answers were left to choose from, or
    none of the draw `extra`. The weight of a pair is the product of its sides' masses: 1 where answers were sampled.
    A pair's worth is by the judge's `wins`, whatever decides the label: `selector.win_rates`; or its utility. A length
    penalty is in all that the judge says, ranks, labels and `worth` alike: `selector.length_penalty`.
    """

    label: str = "hard"  # hard | soft | sampled: rlhf_flow.selector.label
    truncated: str = "drop"  # drop: an answer that was cut by max_tokens is in no pair; keep: it is like any other
    identical: str = "drop"  # drop: two equal answers are no pair; keep: a pair of preference 1/2, whatever the label
    longest: int | None = None  # tokens of an answer: one that is longer is in no pair; null: any
    length_penalty: float = 0.0  # utility, or nats of the log-odds, that each token of an answer costs
    preference_margin: float = 0.0  # of |P(first beats second) - 1/2|: a pair that is closer is not used
    among: list[str] | None = None  # the draws whose answers are paired; null: all
    worth: str = "wins"  # what `Pair.worth` holds. wins: win rates; utility: what the judge says of each side alone
    opponent: str | None = None  # the draw that `Pair.worth` is a win rate against; null: all answers to the prompt
    extra: str | None = None  # the draw whose first answer, or whose side of the pair, is the third; null: no third

    def __post_init__(self) -> None:
        allowed = {"label": LABELS, "truncated": KEEP_OR_DROP, "identical": KEEP_OR_DROP, "worth": WORTHS}
        for key, values in allowed.items():
            if vars(self)[key] not in values:
                raise ValueError(f"selector.{key} must be one of {', '.join(values)}, got {vars(self)[key]!r}")
        for key, rule, ok in (
            ("longest", ">= 1, a number of tokens (null: any)", self.longest is None or self.longest >= 1),
            ("length_penalty", ">= 0 and finite, for it is what a token costs (0: nothing)",
             0 <= self.length_penalty < math.inf),
            ("preference_margin", "in [0, 1/2), the distance of a probability from 1/2 (0: any)",
             0 <= self.preference_margin < 0.5),
        ):  # fmt: skip
            if not ok:
                raise ValueError(f"selector.{key} must be {rule}, got {vars(self)[key]}")

    @property
    def keeps_order(self) -> bool:
        """Whether the first of each pair is of one draw, whoever won."""
        return False

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError where so many responses per prompt, by the name of their draw, cannot give a pair."""
        check_named("opponent", [self.opponent], counts)
        check_named("extra", [self.extra], counts)
        check_named("among", self.among or [], counts)
        total = self.paired(counts)
        if total < 2:
            of = f" in {', '.join(self.among)}" if self.among is not None else ""
            raise ValueError(
                f"a pair needs at least 2 responses per prompt, and the sampler draws {total}{of}. Raise its n."
            )

    def paired(self, counts: Mapping[str, int]) -> int:
        """How many responses per prompt may be sides of a pair."""
        return sum(n for name, n in counts.items() if self.among is None or name in self.among)

    def pairs(self, scored: Scored, choose: Choose, *, keep_order: bool = False) -> Selection:
        """Let `choose` consider pairs of each prompt's responses, label them, and account for all responses."""
        scored = penalised(scored, self.length_penalty)
        worth = win_rates(scored, self.opponent) if self.worth == "wins" else scored.utility  # [B, N]
        pairs, buckets, counts = [], {}, Counter[str]()
        for b, responses in enumerate(scored.rollouts.responses):
            out = [scored.excluded.get(one.id) or self._out(one) for one in responses]
            whole = [k for k, bucket in enumerate(out) if bucket is None]
            left = whole if self.among is None else [k for k in whole if responses[k].draw.name in self.among]
            thirds = [k for k in whole if responses[k].draw.name == self.extra]
            possible = len(left) > 1 and (self.extra is None or bool(thirds))
            choices = list(choose(scored, b, left)) if possible else []
            start = "not_selected" if choices else "no_pair"
            for one, bucket in zip(responses, out, strict=True):
                buckets[one.id] = bucket or start
            if not choices:
                counts["no_pair"] += 1
            for choice in choices:
                bucket, pair = self._judged(scored, b, choice, worth[b].tolist(), thirds, keep_order=keep_order)
                counts[bucket] += 1
                found = {responses[choice.first].id: bucket, responses[choice.second].id: bucket}
                if pair is not None:
                    pairs.append(pair)
                    if pair.extra is not None:
                        found.setdefault(pair.extra, "extra")
                for id, name in found.items():
                    if _RANK[name] < _RANK[buckets[id]]:
                        buckets[id] = name
        return Selection(tuple(pairs), response_buckets=buckets, pair_counts=dict(counts))

    def _out(self, response: Response) -> str | None:
        """The bucket of a response that may be in no pair."""
        if response.truncated and self.truncated == "drop":
            return "truncated"
        return "too_long" if self.longest is not None and len(response.tokens) > self.longest else None

    def _judged(
        self, scored: Scored, b: int, choice: Choice, worth: list[float], thirds: list[int], *, keep_order: bool
    ) -> tuple[str, Pair | None]:
        """The bucket of a considered pair, and the pair itself where it is used."""
        responses = scored.rollouts.responses[b]
        i, j = choice.first, choice.second
        bucket, label = labelled(
            self.label,
            responses[i],
            responses[j],
            wins=float(scored.wins[b, i, j]) if choice.wins is None else choice.wins,
            tied=choice.tied,
            keep_order=keep_order,
            keep_identical=self.identical == "keep",
            margin=self.preference_margin,
        )
        if bucket == "abstained":
            bucket = next(
                (name for name in REASONS if name in scored.pair_flags and scored.pair_flags[name][b, i, j]), bucket
            )
        if choice.refused is not None and bucket != "identical":
            return choice.refused, None
        if label is None:
            return bucket, None
        if math.isnan(worth[i]) or math.isnan(worth[j]):
            return "abstained", None
        if label.swapped:
            i, j = j, i
        first, second = responses[i], responses[j]
        return bucket, Pair(
            scored.rollouts.prompts[b].id,
            first=first.id,
            second=second.id,
            preference=label.preference,
            weight=first.mass * second.mass,
            worth=(worth[i], worth[j]),
            extra=_third(responses, (i, j), thirds),
        )


def check_named(key: str, names: Sequence[str | None], counts: Mapping[str, int]) -> None:
    """Raise ValueError where the field `key` of a selector names a draw that the sampler has not; None names none."""
    for name in names:
        if name is not None and name not in counts:
            raise ValueError(
                f"selector.{key} must name a draw of the sampler, which has {', '.join(counts)}, got {name!r}. "
                "Try one of these, or another sampler."
            )


def _third(responses: Sequence[Response], sides: tuple[int, int], thirds: list[int]) -> str | None:
    """The id of the response that goes along.

    Where one side is of the draw asked for, it is that one, so that it counts by the pair's own weight: a sum over
    pairs is then a sum over its draw. With a single answer in that draw this is the first one in any case.
    """
    if not thirds:
        return None
    own = [k for k in sides if k in thirds]
    return responses[own[0] if len(own) == 1 else thirds[0]].id
