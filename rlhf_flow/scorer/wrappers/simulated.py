"""A simulated annotator: another scorer with noise.

One verdict per pair, drawn by the Bradley-Terry model (1952) of the other scorer's strengths, with ties, mistakes,
position bias and abstentions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.pairwise import Match, both_views, matches
from rlhf_flow.scorer.wrappers.around import Around
from rlhf_flow.seeds import derive
from rlhf_flow.types import Rollouts, Scored


@dataclass(frozen=True)
class Simulated(Around):
    """Compares two answers as a noisy annotator would who agrees with the scorer `base`.

    P(the answer shown first is better) = sigma(strength / temperature + position_bias). The strength is
    u_first - u_second if `base` gives utilities, else the log-odds of its wins. A verdict is a function of the prompt's
    id, the two texts and `seed`, whatever the round and the other answers. Equal texts tie.
    """

    base: Any = None  # any scorer: scorer@scorer.base=<name>
    temperature: float = 1.0  # divides the strength; near 0 only `flips` makes mistakes
    position_bias: float = 0.0  # nats in favour of the answer shown first; negative: against it
    both_orders: bool = False  # average the verdicts in both orders; false: one order, drawn
    ties: float = 0.0  # the verdict is 1/2 if the probability is closer to 1/2 than this
    flips: float = 0.0  # share of verdicts that are inverted
    abstains: float = 0.0  # share of pairs without a verdict
    seed: int = 0  # of the annotator

    intransitive: ClassVar[bool] = True  # by its noise
    gives_probabilities: ClassVar[bool] = False
    cache_format: ClassVar[None] = None  # cache the base instead

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("temperature", "> 0 and finite", 0 < self.temperature < math.inf),
            ("position_bias", "finite, in nats", math.isfinite(self.position_bias)),
            ("ties", "in [0, 1/2), the distance of a probability from 1/2", 0 <= self.ties < 0.5),
            ("flips", "in [0, 1/2], since more would invert the base", 0 <= self.flips <= 0.5),
            ("abstains", "in [0, 1]", 0 <= self.abstains <= 1),
        )

    def wrap(self, scorer: Scorer) -> SimulatedJudge:
        """The simulated annotator, given the opened `base`."""
        return SimulatedJudge(self, scorer, compares=self.base.intransitive)


@dataclass(frozen=True)
class SimulatedJudge:
    """A simulated annotator with its opened base."""

    spec: Simulated
    base: Scorer
    compares: bool  # base.intransitive, read once: a remote scorer asks its servers

    def score(self, rollouts: Rollouts) -> Scored:
        """Let the base score, and draw a verdict on every two distinct answers to a prompt; that is one query.

        A pair that the base abstained from has no verdict. Aspects, batch metrics and other counts are the base's.
        """
        truth = self.base.score(rollouts)
        asked = matches(rollouts)
        place = {one.id: k for responses in rollouts.responses for k, one in enumerate(responses)}
        beats = [
            self._verdict(match, self._strength(truth, match.b, place[match.first.id], place[match.second.id]))
            for match in asked
        ]
        utility, wins = both_views(rollouts, beats)  # [B, N], [B, N, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=wins,
            aspects=truth.aspects,
            pair_flags=truth.pair_flags,
            counts={
                **truth.counts,
                "judge/queries": len(beats),
                "judge/asked": len(beats),
                "judge/verdicts": int((~np.isnan(beats)).sum()),
                "judge/abstained": int(np.isnan(beats).sum()),
            },
            batch_metrics=truth.batch_metrics,
        )

    def close(self) -> None:
        """Close the base."""
        self.base.close()

    def _strength(self, truth: Scored, b: int, i: int, j: int) -> float:
        """Of i over j, in nats; NaN if the base abstained."""
        if not self.compares:
            return float(truth.utility[b, i]) - float(truth.utility[b, j])
        return _log(float(truth.wins[b, i, j])) - _log(float(truth.wins[b, j, i]))

    def _verdict(self, match: Match, strength: float) -> float:
        """P(first beats second): 0, 1/2 or 1, a mean of two such, or NaN."""
        if math.isnan(strength) or self._chance("abstains", match) < self.spec.abstains:
            return math.nan
        if self.spec.both_orders:
            return (self._answer(match, strength, first=True) + self._answer(match, strength, first=False)) / 2
        return self._answer(match, strength, first=self._chance("stands", match) < 0.5)

    def _answer(self, match: Match, strength: float, *, first: bool) -> float:
        """The verdict with the match's first answer shown first (True) or second."""
        bias = self.spec.position_bias if first else -self.spec.position_bias
        p = float(sigmoid(strength / self.spec.temperature + bias))
        if abs(p - 0.5) < self.spec.ties:
            return 0.5
        order = "forth" if first else "back"
        won = self._chance(f"draw, {order}", match) < p
        flipped = self._chance(f"flip, {order}", match) < self.spec.flips
        return float(won != flipped)

    def _chance(self, purpose: str, match: Match) -> float:
        """A uniform number in [0, 1), a function of seed, purpose, prompt id and texts."""
        seed = derive(self.spec.seed, purpose, match.prompt.id, match.first.text, match.second.text)
        return (seed >> 9) / 2**53  # exact in float64, so below 1


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf if p == 0 else math.nan
