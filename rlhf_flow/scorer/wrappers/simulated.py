"""A simulated annotator: another judge, seen through noise.

For every two answers one verdict, drawn by the Bradley-Terry model (1952) of what the other judge thinks; with ties,
mistakes, a preference for a place, and abstentions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.matches import Match, both_views, matches
from rlhf_flow.seeds import derive
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored


@dataclass(frozen=True)
class Simulated:
    """Says which of two answers is better, as one annotator would who thinks as the judge `base`.

    P(the answer that stands first is better) = sigma(strength / temperature + position_bias). The strength is the
    difference u_first - u_second of the utilities of a judge that gives numbers, and the log-odds of the wins of one
    that compares. A verdict belongs to the prompt's id, the two texts and `seed`: to ask again gives it again, in any
    round and any company. Equal texts are 1/2, and are not asked about.
    """

    base: Any = None  # any scorer: scorer@scorer.base=<name>
    temperature: float = 1.0  # what the strength is divided by; near 0 the annotator makes no mistake but by `flips`
    position_bias: float = 0.0  # nats for whoever stands first; negative: against
    both_orders: bool = False  # asked in both orders, and the mean taken; false: in one of them, drawn
    ties: float = 0.0  # a probability that is closer to 1/2 than this is a verdict of 1/2
    flips: float = 0.0  # share of the verdicts that are turned
    abstains: float = 0.0  # share of the pairs that it says nothing of
    seed: int = 0  # another one is another annotator

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("temperature", "> 0 and finite", 0 < self.temperature < math.inf),
            ("position_bias", "finite, in nats", math.isfinite(self.position_bias)),
            ("ties", "in [0, 1/2), the distance of a probability from 1/2", 0 <= self.ties < 0.5),
            ("flips", "in [0, 1/2], for more would be another judge", 0 <= self.flips <= 0.5),
            ("abstains", "in [0, 1]", 0 <= self.abstains <= 1),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]}")

    @property
    def intransitive(self) -> bool:
        return True  # by its noise, even where the judge cannot

    @property
    def loads_model(self) -> bool:
        return bool(self.base.loads_model)

    @property
    def cache_format(self) -> None:
        return None  # it is the judge behind it that is worth keeping

    def fingerprint(self) -> str:
        """The judge's own: the fields say the rest."""
        return str(self.base.fingerprint())

    def check(self) -> None:
        """As of the judge."""
        self.base.check()

    def open(self, place: Place) -> SimulatedJudge:
        """Open the judge there."""
        return SimulatedJudge(self, self.base.open(place), compares=self.base.intransitive)


@dataclass(frozen=True)
class SimulatedJudge:
    """A simulated annotator at work."""

    spec: Simulated
    judge: Scorer
    compares: bool  # whether the judge does: asked once, for a remote one asks its servers

    def score(self, rollouts: Rollouts) -> Scored:
        """Let the judge score, and draw a verdict on every two different answers to a prompt; that is one query.

        A pair that the judge abstained from has no verdict either. Aspects and measures are the judge's, and so are
        its other counts.
        """
        thought = self.judge.score(rollouts)
        asked = matches(rollouts)
        place = {one.id: k for responses in rollouts.responses for k, one in enumerate(responses)}
        beats = [
            self._verdict(match, self._strength(thought, match.b, place[match.first.id], place[match.second.id]))
            for match in asked
        ]
        utility, wins = both_views(rollouts, beats)  # [B, N], [B, N, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=wins,
            aspects=thought.aspects,
            pair_flags=thought.pair_flags,
            counts={
                **thought.counts,
                "judge/queries": len(beats),
                "judge/asked": len(beats),
                "judge/verdicts": int((~np.isnan(beats)).sum()),
                "judge/abstained": int(np.isnan(beats).sum()),
            },
            batch_metrics=thought.batch_metrics,
        )

    def close(self) -> None:
        """Close the judge."""
        self.judge.close()

    def _strength(self, thought: Scored, b: int, i: int, j: int) -> float:
        """How much better the judge finds i than j, in nats; NaN where it abstained."""
        if not self.compares:
            return float(thought.utility[b, i]) - float(thought.utility[b, j])
        return _log(float(thought.wins[b, i, j])) - _log(float(thought.wins[b, j, i]))

    def _verdict(self, match: Match, strength: float) -> float:
        """P(first beats second) as the annotator says it: 0, 1/2 or 1, a mean of two such, or NaN."""
        if math.isnan(strength) or self._chance("abstains", match) < self.spec.abstains:
            return math.nan
        if self.spec.both_orders:
            return (self._answer(match, strength, first=True) + self._answer(match, strength, first=False)) / 2
        return self._answer(match, strength, first=self._chance("stands", match) < 0.5)

    def _answer(self, match: Match, strength: float, *, first: bool) -> float:
        """The verdict where the match's first stands first, or second."""
        bias = self.spec.position_bias if first else -self.spec.position_bias
        p = _sigmoid(strength / self.spec.temperature + bias)
        if abs(p - 0.5) < self.spec.ties:
            return 0.5
        order = "forth" if first else "back"
        won = self._chance(f"draw, {order}", match) < p
        flipped = self._chance(f"flip, {order}", match) < self.spec.flips
        return float(won != flipped)

    def _chance(self, purpose: str, match: Match) -> float:
        """A number in [0, 1) that belongs to the purpose, the prompt's id and the two texts."""
        seed = derive(self.spec.seed, purpose, match.prompt.id, match.first.text, match.second.text)
        return (seed >> 9) / 2**53  # exact in float64, so below 1


def _sigmoid(strength: float) -> float:
    small = math.exp(-abs(strength))
    return 1 / (1 + small) if strength >= 0 else small / (1 + small)


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf if p == 0 else math.nan
