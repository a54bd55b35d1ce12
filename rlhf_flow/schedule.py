"""Which versions a round uses: where it starts, who answers, and the policies its loss is anchored to.

Rounds count from 1; round 0 is the start, whose policy is the checkpoint that the user named. A plan has a version for
every role that the schedule knows; a run uses those that its sampler and its objective ask for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf_flow.types import RoundPlan, RoundRecord

if TYPE_CHECKING:
    from rlhf_flow.protocols import Schedule


@dataclass(frozen=True)
class Fixed:
    """Every round goes on from the one before it; the reference stays the start."""

    def check(self, rounds: int) -> None:
        """Any number of rounds will do."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        return _going_on(round, reference=0)


@dataclass(frozen=True)
class EveryK:
    """Like `fixed`, but with a reference that is renewed: the newest policy before this round whose round k divides."""

    k: int = 1  # rounds between renewals

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(
                f"schedule.k must be >= 1, got {self.k}. Use 1 for a new reference each round, "
                "or schedule=fixed to keep the start."
            )

    def check(self, rounds: int) -> None:
        """Any number of rounds will do."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        return _going_on(round, reference=_newest_multiple(self.k, round))


@dataclass(frozen=True)
class HalfSteps:
    """Two rounds make one step: full (0), half (1), full (2), half (3), full (4), ... The reference stays the start.

    EGPO, Zhou, Fazel and Du 2025, arXiv:2503.08942: the odd round answers with the last full policy and publishes a
    `half`; the even one starts from that same full policy again, with its optimizer state, and learns from the answers
    of the half. So what an even round changes is measured from the full policy, and `previous` is that policy in both.
    """

    def check(self, rounds: int) -> None:
        """Raise ValueError unless `rounds` is even."""
        if rounds % 2:
            raise ValueError(
                f"rounds must be even under schedule=half_steps, where every second round ends a step, got {rounds}. "
                f"Try rounds={rounds + 1}."
            )

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        half = round % 2 == 1
        full = round - 1 if half else round - 2
        return RoundPlan(
            round,
            init=full,
            samplers={"policy": round - 1, "reference": 0},
            anchors={"reference": 0, "previous": full},
            publish_as="half" if half else "policy",
            evaluated=not half,
        )


@dataclass(frozen=True)
class Averaged:
    """Like `fixed`, and `ema`, the moving average of the policies' weights, answers beside the policy.

    Nash-EMA, Munos et al. 2023, arXiv:2312.00886, sec. 7: ema_t = decay ema_{t-1} + (1 - decay) pi_t, from the start.
    """

    decay: float = 0.9  # a round; the paper's 0.999 is one of an optimizer step

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(
                f"schedule.decay must be in [0, 1), got {self.decay}. 0 is the policy itself; near 1 the average "
                "hardly moves. Try 0.9."
            )

    def check(self, rounds: int) -> None:
        """Any number of rounds will do."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        plan = _going_on(round, reference=0)
        samplers = {**plan.samplers, "ema": round - 1}
        return replace(plan, samplers=samplers, averages={"ema": self.decay})


@dataclass(frozen=True)
class Versions:
    """Every version chosen on its own, by a word.

    start    the start
    last     the policy of the round before
    every_k  the newest policy before this round whose round k divides: every_3 is the start in rounds 1 to 3
    """

    init: str = "last"  # where the learner starts
    policy: str = "last"  # who answers as the policy
    reference_sampler: str = "start"  # who answers as the reference
    reference: str = "start"  # the anchor `reference`
    previous: str = "last"  # the anchor `previous`

    def __post_init__(self) -> None:
        for key, word in vars(self).items():
            if word not in ("start", "last") and not re.fullmatch(r"every_[1-9][0-9]*", word):
                raise ValueError(
                    f"schedule.{key} must be start, last or every_<k> with a number k >= 1, got {word!r}. "
                    "Try every_2 for a version that is renewed every two rounds."
                )

    def check(self, rounds: int) -> None:
        """Any number of rounds will do."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        return RoundPlan(
            round,
            init=_version(self.init, round),
            samplers={"policy": _version(self.policy, round), "reference": _version(self.reference_sampler, round)},
            anchors={"reference": _version(self.reference, round), "previous": _version(self.previous, round)},
        )


@dataclass(frozen=True)
class Lagged:
    """Any schedule under `lag`: a round is answered by whoever it names for the round that is `lag` rounds earlier.

    What is learned from, and the anchors, stay. So nobody has to wait for the round before to draw the answers.
    """

    of: Schedule
    lag: int

    def check(self, rounds: int) -> None:
        """As the schedule itself; and raise ValueError for one whose answers cannot be of an earlier round."""
        self.of.check(rounds)
        if self.lag and not all(self.of.at(round, ()).evaluated for round in range(1, rounds + 1)):
            raise ValueError(
                f"lag={self.lag} draws the answers of a round before the one ahead of it is learned, and this schedule "
                "has half steps, whose second half is made with answers of the first. Try lag=0, or another schedule."
            )

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        earlier = max(1, round - self.lag)
        samplers = self.of.at(earlier, records[:earlier]).samplers
        return replace(self.of.at(round, records), samplers=samplers)


def _going_on(round: int, *, reference: int) -> RoundPlan:
    last = round - 1
    return RoundPlan(
        round,
        init=last,
        samplers={"policy": last, "reference": reference},
        anchors={"reference": reference, "previous": last},
    )


def _version(word: str, round: int) -> int:
    if word == "start":
        return 0
    return round - 1 if word == "last" else _newest_multiple(int(word.removeprefix("every_")), round)


def _newest_multiple(k: int, round: int) -> int:
    """The newest round before this one that k divides; 0 where there is none."""
    return (round - 1) // k * k


PARTS: dict[str, type] = {
    "fixed": Fixed,
    "every_k": EveryK,
    "half_steps": HalfSteps,
    "averaged": Averaged,
    "versions": Versions,
}
