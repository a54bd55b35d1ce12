"""An ensemble of reward models, which an answer has to please together: where they disagree, none of them is trusted.

Coste et al. 2023, arXiv:2310.02743 (mean, min); Eisenstein et al. 2023, arXiv:2312.09244 (mean minus std).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from rlhf_flow.scorer.models.reward_model import RewardJudge, RewardModel
from rlhf_flow.scorer.pairwise import bradley_terry
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored

COMBINE = ("mean", "min", "pessimistic")


@dataclass(frozen=True)
class Ensemble:
    """Every member scores every answer: z_m = (r_m - shift_m) / scale_m, and the utility is what `combine` makes of z.

    By default z is the score itself, in nats. Reward models of one recipe need no more: the difference of two scores
    is a log-odds, on one scale. An offset that two members give all answers to a prompt changes neither's preferences,
    yet counts in `min` and in the std: Bradley-Terry leaves it open. Members of different origin want shifts and
    scales: the mean and the std of each one's scores on answers that were judged before, which the aspects have. They
    are never taken from the batch, in which the worth of an answer would depend on its company.

    All members are loaded side by side, so memory and time are those of all together.
    """

    members: list[RewardModel] = field(default_factory=list)  # [{path: a}, {path: b}], each as scorer=reward_model
    combine: str = "mean"  # min: the worst; pessimistic: mean - k * std
    k: float = 1.0  # of pessimistic: standard deviations
    shifts: list[float] = field(default_factory=list)  # one for each member; none: 0
    scales: list[float] = field(default_factory=list)  # likewise; none: 1

    def __post_init__(self) -> None:
        several = len(self.members)
        each = f"{several} finite numbers, one for each member, or none"
        for key, rule, ok in (
            ("members", "at least two reward models", several > 1),
            ("combine", f"one of {', '.join(COMBINE)}", self.combine in COMBINE),
            ("k", "a number >= 0", 0 <= self.k < math.inf),
            ("shifts", each, _one_each(self.shifts, several)),
            ("scales", f"{each}, each > 0", _one_each(self.scales, several) and all(one > 0 for one in self.scales)),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def intransitive(self) -> bool:
        return False  # a number for each answer

    @property
    def loads_model(self) -> bool:
        return True

    @property
    def cache_format(self) -> str:
        return "log_odds"

    def fingerprint(self) -> str:
        """Hash of those of the members, in their order."""
        told = "\n".join(member.fingerprint() for member in self.members)
        return hashlib.sha256(told.encode()).hexdigest()

    def check(self) -> None:
        """As of each member."""
        for at, member in enumerate(self.members):
            with _of_member(at):
                member.check()

    def open(self, place: Place) -> EnsembleJudge:
        """Load all members onto `place.device`. Raises ValueError where one is no reward model."""
        with ExitStack() as opened:
            judges: list[RewardJudge] = []
            for at, member in enumerate(self.members):
                with _of_member(at):
                    judges.append(member.open(place))
                opened.callback(judges[-1].close)
            opened.pop_all()
        return EnsembleJudge(self, tuple(judges))


@dataclass(frozen=True)
class EnsembleJudge:
    """An ensemble at work."""

    spec: Ensemble
    judges: tuple[RewardJudge, ...]  # [M]

    def score(self, rollouts: Rollouts) -> Scored:
        """Let every member score every answer.

        Aspects: z of each member as `member/<m>`, in their order from 0, and `std`, that of the members (the root of
        the mean square; wide where they disagree). What several cut or read alike is counted once.
        """
        each = [judge.score(rollouts) for judge in self.judges]
        z = self._standardised(np.stack([scored.utility for scored in each]))  # [M, B, N]
        std = z.std(axis=0)  # [B, N]
        utility = self._combined(z, std).astype(np.float32)  # [B, N]
        members = {f"member/{m}": values.astype(np.float32) for m, values in enumerate(z)}
        return Scored(
            rollouts,
            utility=utility,
            wins=bradley_terry(utility),
            aspects={**members, "std": std.astype(np.float32)},
            counts={name: max(scored.counts[name] for scored in each) for name in each[0].counts},
        )

    def step_aside(self) -> None:
        for judge in self.judges:
            judge.step_aside()

    def come_back(self) -> None:
        for judge in self.judges:
            judge.come_back()

    def close(self) -> None:
        """Let go of all members."""
        for judge in self.judges:
            judge.close()

    def _standardised(self, scores: np.ndarray) -> np.ndarray:
        """float64, as `scores` [M, B, N]."""
        several = len(self.judges)
        shifts = np.reshape(self.spec.shifts or [0.0] * several, (several, 1, 1))
        scales = np.reshape(self.spec.scales or [1.0] * several, (several, 1, 1))
        return np.asarray((scores.astype(np.float64) - shifts) / scales)

    def _combined(self, z: np.ndarray, std: np.ndarray) -> np.ndarray:
        """[B, N] of [M, B, N]."""
        if self.spec.combine == "min":
            return np.asarray(z.min(axis=0))
        return np.asarray(z.mean(axis=0) - (self.spec.k * std if self.spec.combine == "pessimistic" else 0.0))


@contextmanager
def _of_member(at: int) -> Iterator[None]:
    """An error of a member names it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"scorer.members.{at}: {error}") from error


def _one_each(values: list[float], several: int) -> bool:
    return not values or (len(values) == several and all(map(math.isfinite, values)))
