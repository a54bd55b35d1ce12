"""How far a response may be from the policy that trains on it.

Staleness: rounds trained since the policy that sampled the response. Mismatch: mean over its tokens of
|log pi(y_t) - log mu(y_t)| in nats, where mu is the policy as computed by the engine and pi the one that the round
starts from, as computed by the learner. On-policy, the mismatch is the numerical difference of the two programs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

STALE, MISMATCHED = "stale", "mismatched"  # the buckets of responses beyond a bound


class GateError(RuntimeError):
    """Responses are further from the policy than the run allows. Committed stages are kept."""


@dataclass(frozen=True)
class OffPolicy:
    """Bounds on staleness and mismatch, and what happens to responses beyond them."""

    max_staleness: int | None = None  # rounds; null: any
    max_mismatch: float | None = None  # nats a token; null: any
    exceeding: str = "drop"  # drop (no pair uses such a response; buckets stale, mismatched) | stop (the run)
    measured: int = 64  # responses per round whose mismatch is measured; up to 64: at most 1 in 8 of them. Bounded: all

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
        """The bucket of a response beyond a bound; None if it is within them or not measured."""
        if self.max_staleness is not None and staleness is not None and staleness > self.max_staleness:
            return STALE
        if self.max_mismatch is not None and mismatch is not None and not mismatch <= self.max_mismatch:
            return MISMATCHED  # so is NaN
        return None


@dataclass(frozen=True)
class Anchors:
    """Where the log-probs of anchors come from: an engine that generated the answer, the learner, other checkpoints."""

    by: str = "engine"  # engine (from sampling, if the anchor sampled and max_mismatch allows) | learner (computed)
    max_mismatch: float = 1e-4  # the round's largest, nats a token: float32 engines are within, bfloat16 ones not
    policies: dict[str, str] = field(default_factory=dict)  # name -> folder of a checkpoint of the same model: anchors

    def __post_init__(self) -> None:
        if self.by not in ("engine", "learner"):
            raise ValueError(f"anchors.by must be engine or learner, got {self.by!r}")
        if not 0 <= self.max_mismatch < math.inf:
            raise ValueError(f"anchors.max_mismatch must be >= 0, in nats a token, got {self.max_mismatch}")

    def trusts_engines(self, mismatch: object) -> bool:
        """Whether engines' log-probs serve in a round with this largest mismatch; None: it was not measured."""
        return self.by == "engine" and isinstance(mismatch, float) and mismatch <= self.max_mismatch


@dataclass(frozen=True)
class Distance:
    """Of one response, from the engine's policy mu to the learner's policy pi."""

    mismatch: float  # mean over its tokens of |log pi - log mu|, nats
    divergence: float  # sum over its tokens of log mu - log pi, nats: its mean over responses of mu is KL(mu || pi)


def distance(sampled: np.ndarray, learned: np.ndarray) -> Distance:
    """`sampled` and `learned`: log-probs [T] of the same tokens, of mu and of pi."""
    off = learned.astype(np.float64) - sampled
    return Distance(mismatch=float(np.abs(off).mean()), divergence=float(-off.sum()))


def measures(distances: Sequence[Distance], *, on_policy: bool = True) -> Mapping[str, float]:
    """The metrics of a round; empty if nothing was measured.

    `mismatch/kl` is an estimate of KL(mu || pi), if mu sampled the responses as it is. Other decoding (a temperature,
    top_p) samples from another distribution than mu; then the same mean is `mismatch/divergence`, and no KL.
    """
    if not distances:
        return {}
    off = np.array([(each.mismatch, each.divergence) for each in distances])  # [M, 2]
    return {
        "mismatch/mean": float(off[:, 0].mean()),
        "mismatch/max": float(off[:, 0].max()),
        "mismatch/kl" if on_policy else "mismatch/divergence": float(off[:, 1].mean()),
        "mismatch/responses": len(distances),
    }
