"""The base class of selectors: labels candidate pairs and counts what happens to every response."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rlhf_flow.selector.label import LABELS, labelled
from rlhf_flow.selector.length_penalty import penalised
from rlhf_flow.selector.worth import WORTHS, worths
from rlhf_flow.types import Pair, Response, Scored, Selection

KEEP_OR_DROP = ("keep", "drop")

# The bucket of a response in several candidate pairs is the first of these that one of the pairs has.
BUCKETS = (
    "used",
    "used_tie",  # in a pair of preference 1/2
    "extra",  # in no used pair, but the third response of one
    "tie",
    "low_margin",  # too close to 1/2
    "identical",
    "inconsistent",  # no verdict: the two orders contradict each other
    "overdue",  # no verdict: annotators did not answer in time
    "capped",  # no verdict: the judge's budget was spent
    "unasked",  # no verdict: not compared, to save comparisons
    "abstained",  # no verdict for another reason, or no worth of one side
    "not_beaten",
    "below_margin",
    "below_floor",
    "not_selected",  # in no candidate pair
    "no_pair",  # of a prompt without candidate pairs
    "too_long",
    "truncated",
    "mismatched",  # too far from the policy in training: rlhf_flow.metrics.off_policy
    "stale",
)
REASONS = ("inconsistent", "overdue", "capped", "unasked")  # names in `Scored.pair_flags` that replace `abstained`
_RANK = {bucket: rank for rank, bucket in enumerate(BUCKETS)}


@dataclass(frozen=True)
class Choice:
    """A candidate pair: the indices of two responses of a prompt, and the selector's verdict, if it has one."""

    first: int
    second: int
    tied: bool = False  # equal for the selector
    wins: float | None = None  # P(first beats second), if it is not the judge's
    refused: str | None = None  # the bucket of a pair that must not be used


# (scores with the length penalty, index of the prompt, indices of the responses to choose from, at least two) ->
# candidate pairs
Choose: TypeAlias = Callable[[Scored, int, list[int]], Iterable[Choice]]


@dataclass(frozen=True)
class Pairing:
    """The settings of all selectors.

    Every candidate pair has one bucket, and so has every response (see `BUCKETS`). A prompt without candidate pairs
    counts as one pair `no_pair`: fewer than two responses were left, or none of the draw `extra`. The weight of a pair
    is the product of its sides' masses, 1 for sampled responses. `Pair.worth` holds the kind of `selector.worth`.
    The penalties of length and of a missing end token apply to ranks, labels and worth alike.
    """

    label: str = "hard"  # hard | soft | sampled: rlhf_flow.selector.label
    truncated: str = "drop"  # drop (no pairs with responses cut by max_tokens) | keep (use them)
    identical: str = "drop"  # drop (no pairs of equal responses) | keep (with preference 1/2)
    longest: int | None = None  # maximum tokens of a response in a pair; null: any
    length_penalty: float = 0.0  # cost per token, in utility or nats of log-odds
    missing_eos_penalty: float = 0.0  # cost of a response cut by max_tokens, in the same unit; with truncated=keep
    preference_margin: float = 0.0  # minimum of |P(first beats second) - 1/2|
    among: list[str] | None = None  # the draws to pair; null: all
    worth: str = "wins"  # wins | log_odds | utility | advantage | standardised: for objectives that read it
    opponent: str | None = None  # the draw for wins and log_odds; null: all responses to the prompt
    extra: str | None = None  # the draw of the third response of each pair; null: none

    def __post_init__(self) -> None:
        allowed = {"label": LABELS, "truncated": KEEP_OR_DROP, "identical": KEEP_OR_DROP, "worth": WORTHS}
        for key, values in allowed.items():
            if vars(self)[key] not in values:
                raise ValueError(f"selector.{key} must be one of {', '.join(values)}, got {vars(self)[key]!r}")
        for key, rule, ok in (
            ("longest", ">= 1, a number of tokens (null: any)", self.longest is None or self.longest >= 1),
            ("length_penalty", ">= 0 and finite, the cost of a token (0: none)",
             0 <= self.length_penalty < math.inf),
            ("missing_eos_penalty", ">= 0 and finite, the cost of a truncated response (0: none)",
             0 <= self.missing_eos_penalty < math.inf),
            ("preference_margin", "in [0, 1/2), the distance of a probability from 1/2 (0: any)",
             0 <= self.preference_margin < 0.5),
        ):  # fmt: skip
            if not ok:
                raise ValueError(f"selector.{key} must be {rule}, got {vars(self)[key]}")

    @property
    def first_draw(self) -> str | None:
        """The draw of the first of each pair, win or lose; None: the winner is first."""
        return None

    @property
    def order(self) -> str | None:
        """The order of the responses in its groups: worth, the best first, or drawn; None: it makes pairs."""
        return None

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError if these numbers of responses per prompt, by draw, cannot give a pair."""
        self.check_draws(counts)
        total = self.paired(counts)
        if total < 2:
            of = f" in {', '.join(self.among)}" if self.among is not None else ""
            raise ValueError(
                f"a pair needs at least 2 responses per prompt, and the sampler draws {total}{of}. Fix: raise its n."
            )

    def check_draws(self, counts: Mapping[str, int]) -> None:
        """Raise ValueError if a key names a draw that the sampler lacks."""
        check_named("opponent", [self.opponent], counts)
        check_named("extra", [self.extra], counts)
        check_named("among", self.among or [], counts)

    def paired(self, counts: Mapping[str, int]) -> int:
        """The number of responses per prompt that may be paired."""
        return sum(n for name, n in counts.items() if self.among is None or name in self.among)

    def max_pairs(self, counts: Mapping[str, int]) -> int:
        """An upper bound of the pairs of one prompt: every two responses once."""
        n = self.paired(counts)
        return n * (n - 1) // 2

    def pairs(self, scored: Scored, choose: Choose, *, keep_order: bool = False) -> Selection:
        """Let `choose` propose pairs for each prompt, label them, and assign every response to a bucket."""
        scored = penalised(scored, self.length_penalty, self.missing_eos_penalty)
        worth = worths(scored, self.worth, self.opponent)  # [B, N]
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
        """The bucket of a response that must not be paired, else None."""
        if response.truncated and self.truncated == "drop":
            return "truncated"
        return "too_long" if self.longest is not None and len(response.tokens) > self.longest else None

    def _judged(
        self, scored: Scored, b: int, choice: Choice, worth: list[float], thirds: list[int], *, keep_order: bool
    ) -> tuple[str, Pair | None]:
        """The bucket of a candidate pair, and the pair if it is used."""
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
    """Raise ValueError if the selector's field `key` names a draw that the sampler does not have. None names none."""
    for name in names:
        if name is not None and name not in counts:
            raise ValueError(
                f"selector.{key} must name a draw of the sampler, which has {', '.join(counts)}, got {name!r}. "
                "Fix: name one of these, or use another sampler."
            )


def _third(responses: Sequence[Response], sides: tuple[int, int], thirds: list[int]) -> str | None:
    """The id of the third response: the side of the pair that is of the draw, else the draw's first response.

    A side counts with the pair's weight, so a sum over pairs is a sum over its draw.
    """
    if not thirds:
        return None
    own = [k for k in sides if k in thirds]
    return responses[own[0] if len(own) == 1 else thirds[0]].id
