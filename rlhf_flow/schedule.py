"""Which policy versions a round uses: the initial weights, the sampled policies, and the anchors of the loss.

Rounds count from 1; round 0 is the start, the checkpoint in model.path. A plan has a version for every role that the
schedule knows; a run uses those that its sampler and its objective need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf_flow.types import RoundPlan, RoundRecord

if TYPE_CHECKING:
    from rlhf_flow.protocols import Schedule


class AnyRounds:
    """A schedule that works with any number of rounds."""

    def check(self, rounds: int) -> None:
        """Never raises."""


@dataclass(frozen=True)
class Fixed(AnyRounds):
    """Every round continues from the previous one; the reference is the start."""

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        return _continue(round, reference=0)


@dataclass(frozen=True)
class EveryK(AnyRounds):
    """Like `fixed`, but the reference is the newest earlier policy of a round divisible by k."""

    k: int = 1  # rounds between renewals

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(
                f"schedule.k must be >= 1, got {self.k}. Fix: schedule.k=1, for a new reference each round, or "
                "schedule=fixed, to keep the start."
            )

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        return _continue(round, reference=_newest_multiple(self.k, round))


@dataclass(frozen=True)
class HalfSteps:
    """Two rounds make one step: full (0), half (1), full (2), half (3), full (4), ... The reference is the start.

    EGPO, Zhou, Fazel and Du 2025, arXiv:2503.08942: an odd round samples from the last full policy and publishes a
    `half`. The even round starts from the same full policy, with its optimizer state, and trains on responses of the
    half. `previous` is the full policy in both, as an anchor and to sample from.
    """

    reference: str = "start"  # start | last (the full policy)

    def __post_init__(self) -> None:
        if self.reference not in ("start", "last"):
            raise ValueError(f"schedule.reference must be start or last, got {self.reference!r}")

    def check(self, rounds: int) -> None:
        """Raise ValueError if `rounds` is odd."""
        _check_even(rounds, "half_steps, where a step takes two rounds")

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        half = round % 2 == 1
        full = round - 1 if half else round - 2
        return RoundPlan(
            round,
            init=full,
            samplers={"policy": round - 1, "reference": 0, "previous": full},
            anchors={"reference": full if self.reference == "last" else 0, "previous": full},
            publish_as="half" if half else "policy",
            evaluated=not half,
        )


@dataclass(frozen=True)
class FastAndSlow:
    """Two policies that are trained in turns, each from its own last version: a slow one, then the fast one.

    OFS-DPO, Qi et al. 2024, arXiv:2406.05534. The fast one answers, is evaluated and is the result. `sibling` is the
    newest version of the other one. The reference is the start.
    """

    def check(self, rounds: int) -> None:
        """Raise ValueError if `rounds` is odd."""
        _check_even(rounds, "fast_and_slow, where the last one trains the policy")

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        slow = round % 2 == 1
        return RoundPlan(
            round,
            init=max(0, round - 2),
            samplers={"policy": round - 1 if slow else round - 2, "reference": 0},
            anchors={"reference": 0, "sibling": round - 1},
            publish_as="slow" if slow else "policy",
            evaluated=not slow,
        )


def _check_even(rounds: int, schedule: str) -> None:
    if rounds % 2:
        raise ValueError(f"rounds must be even with schedule={schedule}, got {rounds}. Fix: rounds={rounds + 1}.")


TRAINED = "trained"  # the average that recovers what was trained from what was published


@dataclass(frozen=True)
class Extrapolated(AnyRounds):
    """The reference is the last policy, and each round goes on beyond what it trained, in the direction of the change.

    APO, He, Yuan and Gu 2024, arXiv:2410.06293: theta_t = trained_t + alpha (trained_t - trained_(t-1)). The answers,
    initial weights and reference of the next round are those of theta_t. The optimizer begins each round anew.
    """

    alpha: float = 0.3  # momentum, in [0, 1): the change of a round is multiplied by up to 1 / (1 - alpha)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"schedule.alpha must be in (0, 1), got {self.alpha}. Fix: schedule=every_k, for none.")

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        # trained_t = (theta_t + alpha trained_(t-1)) / (1 + alpha) is a moving average of what was published
        decay = self.alpha / (1 + self.alpha)
        return replace(_continue(round, reference=round - 1), averages={TRAINED: decay}, extrapolation=self.alpha)


@dataclass(frozen=True)
class History(AnyRounds):
    """Like `fixed`, with the policies of up to four rounds back as anchors: previous, previous_2, previous_3, ...

    The start takes the place of rounds before the first.
    """

    depth: int = 3  # policies back: each is a checkpoint more on disk

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 4:
            raise ValueError(f"schedule.depth must be 1 to 4, got {self.depth}: the number of past policies.")

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        plan = _continue(round, reference=0)
        past = {f"previous_{back}": max(0, round - back) for back in range(2, self.depth + 1)}
        return replace(plan, anchors={**plan.anchors, **past})


@dataclass(frozen=True)
class Averaged(AnyRounds):
    """Like `fixed`, with another role `ema` to sample from: the moving average of the policies' weights.

    Nash-EMA, Munos et al. 2023, arXiv:2312.00886, sec. 7: ema_t = decay ema_{t-1} + (1 - decay) pi_t, from the start.
    """

    decay: float = 0.9  # per round; the paper's 0.999 is per optimizer step

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(
                f"schedule.decay must be in [0, 1), got {self.decay}. 0 is the policy; near 1 the average hardly "
                "moves. Fix: schedule.decay=0.9."
            )

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        plan = _continue(round, reference=0)
        samplers = {**plan.samplers, "ema": round - 1}
        return replace(plan, samplers=samplers, averages={"ema": self.decay})


@dataclass(frozen=True)
class Versions(AnyRounds):
    """Every version chosen separately:

    start    the start
    last     the policy of the previous round
    every_k  the newest earlier policy of a round divisible by k: every_3 is the start in rounds 1 to 3
    """

    init: str = "last"  # the learner's initial weights
    policy: str = "last"  # sampled as the policy
    reference_sampler: str = "start"  # sampled as the reference
    reference: str = "start"  # the anchor `reference`
    previous: str = "last"  # the anchor `previous`

    def __post_init__(self) -> None:
        for key, word in vars(self).items():
            if word not in ("start", "last") and not re.fullmatch(r"every_[1-9][0-9]*", word):
                raise ValueError(
                    f"schedule.{key} must be start, last or every_<k> with a number k >= 1, got {word!r}. "
                    f"Fix: schedule.{key}=every_2, for a version that is renewed every two rounds."
                )

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        return RoundPlan(
            round,
            init=_version(self.init, round),
            samplers={"policy": _version(self.policy, round), "reference": _version(self.reference_sampler, round)},
            anchors={"reference": _version(self.reference, round), "previous": _version(self.previous, round)},
        )


@dataclass(frozen=True)
class Lagged:
    """Any schedule with `lag`: a round samples from the policies of `lag` rounds earlier.

    Initial weights and anchors are unchanged. So a round can be sampled before the previous one has been trained.
    """

    of: Schedule
    lag: int

    def check(self, rounds: int) -> None:
        """Raise ValueError like the schedule, and if it has half steps, which cannot be sampled earlier."""
        self.of.check(rounds)
        if self.lag and not all(self.of.at(round, ()).evaluated for round in range(1, rounds + 1)):
            raise ValueError(
                f"lag={self.lag} samples a round before the previous one is trained, but this schedule has half steps, "
                "whose second half samples from the first. Fix: lag=0, or another schedule."
            )

    def at(self, round: int, records: Sequence[RoundRecord]) -> RoundPlan:
        earlier = max(1, round - self.lag)
        samplers = self.of.at(earlier, records[:earlier]).samplers
        return replace(self.of.at(round, records), samplers=samplers)


def _continue(round: int, *, reference: int) -> RoundPlan:
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
    """The newest earlier round divisible by k, or 0."""
    return (round - 1) // k * k


PARTS: dict[str, type] = {
    "fixed": Fixed,
    "every_k": EveryK,
    "half_steps": HalfSteps,
    "fast_and_slow": FastAndSlow,
    "averaged": Averaged,
    "history": History,
    "extrapolated": Extrapolated,
    "versions": Versions,
}
