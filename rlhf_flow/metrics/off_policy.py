"""How far an answer may be from the policy that learns from it: in rounds, and in log-probs.

An answer is `staleness` rounds old: so many were learned since the policy that drew it. Its mismatch is the mean over
its tokens of |log pi(y_t) - log mu(y_t)| in nats: mu is the policy as the engine had it, pi the one that the round
starts from as the learner has it. On-policy that is what the two programs compute differently; one round off, what was
learned as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STALE, MISMATCHED = "stale", "mismatched"  # the buckets of answers that are beyond


class GateError(RuntimeError):
    """Answers are farther from the policy than the run allows. What is committed stays."""


@dataclass(frozen=True)
class OffPolicy:
    """The bounds, and what becomes of an answer beyond them."""

    max_staleness: int | None = None  # rounds; null: any
    max_mismatch: float | None = None  # nats a token; null: any
    exceeding: str = "drop"  # drop: such an answer is in no pair, its bucket says why; stop: such a run stops
    measured: int = 64  # answers of a round whose mismatch is measured, up to 64 at most 1 in 8; max_mismatch: all

    def __post_init__(self) -> None:
        stale, mismatch = self.max_staleness, self.max_mismatch
        for key, rule, ok in (
            ("max_staleness", ">= 0, a number of rounds (null: any)", stale is None or stale >= 0),
            ("max_mismatch", "> 0, in nats a token (null: any)", mismatch is None or 0 < mismatch < math.inf),
            ("exceeding", "drop or stop", self.exceeding in ("drop", "stop")),
            ("measured", ">= 0, a number of answers", self.measured >= 0),
        ):
            if not ok:
                raise ValueError(f"off_policy.{key} must be {rule}, got {vars(self)[key]!r}")

    def bucket(self, staleness: int | None, mismatch: float | None) -> str | None:
        """Why an answer may be in no pair; None where it may, and where nothing is known of it."""
        if self.max_staleness is not None and staleness is not None and staleness > self.max_staleness:
            return STALE
        if self.max_mismatch is not None and mismatch is not None and not mismatch <= self.max_mismatch:
            return MISMATCHED  # a NaN is, too
        return None


@dataclass(frozen=True)
class Distance:
    """Of one answer, from the policy as the engine had it to the policy as the learner has it."""

    mismatch: float  # mean over its tokens of |log pi - log mu|, nats
    divergence: float  # sum over its tokens of log mu - log pi, nats: its mean over answers of mu is KL(mu || pi)


def distance(sampled: np.ndarray, learned: np.ndarray) -> Distance:
    """`sampled` and `learned`: log-probs [T] of the same tokens, of mu and of pi."""
    off = learned.astype(np.float64) - sampled
    return Distance(mismatch=float(np.abs(off).mean()), divergence=float(-off.sum()))


def measures(distances: Sequence[Distance]) -> Mapping[str, float]:
    """The metrics of a round's answers; absent where none was measured."""
    if not distances:
        return {}
    off = np.array([(each.mismatch, each.divergence) for each in distances])  # [M, 2]
    return {
        "mismatch/mean": float(off[:, 0].mean()),
        "mismatch/max": float(off[:, 0].max()),
        "mismatch/kl": float(off[:, 1].mean()),
        "mismatch/responses": len(distances),
    }
