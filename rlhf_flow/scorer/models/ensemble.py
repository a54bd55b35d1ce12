"""An ensemble of reward models, against overoptimization of a single one.

Coste et al. 2023, arXiv:2310.02743 (mean, min); Eisenstein et al. 2023, arXiv:2312.09244 (mean minus std).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.models.reward_model import RewardJudge, RewardModel
from rlhf_flow.scorer.pairwise import bradley_terry
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored

COMBINE = ("mean", "min", "pessimistic")


@dataclass(frozen=True)
class Ensemble:
    """Every member scores every response: z_m = (r_m - shift_m) / scale_m, and `combine` reduces z to the utility.

    By default z is the score itself, in nats, which suffices for reward models of one recipe. Bradley-Terry leaves open
    the offset of a member's scores for a prompt, but `min` and the std depend on it. Members of different origin need
    shifts and scales: the mean and std of each one's scores on earlier responses (see the aspects). They are never
    taken from the batch, so that a response's utility does not depend on the rest of the batch.

    All members are loaded at once, so memory and time are the sum over members.
    """

    members: list[RewardModel] = field(default_factory=list)  # [{path: a}, {path: b}], each as scorer=reward_model
    combine: str = "mean"  # mean | min | pessimistic (mean - k * std)
    k: float = 1.0  # of pessimistic: standard deviations
    shifts: list[float] = field(default_factory=list)  # one per member; empty: 0
    scales: list[float] = field(default_factory=list)  # likewise; empty: 1

    intransitive: ClassVar[bool] = False
    loads_model: ClassVar[bool] = True
    cache_format: ClassVar[str] = "log_odds"

    def __post_init__(self) -> None:
        several = len(self.members)
        each = f"{several} finite numbers, one for each member, or none"
        check_fields(
            self,
            ("members", "at least two reward models", several > 1),
            ("combine", f"one of {', '.join(COMBINE)}", self.combine in COMBINE),
            ("k", "a number >= 0", 0 <= self.k < math.inf),
            ("shifts", each, _one_each(self.shifts, several)),
            ("scales", f"{each}, each > 0", _one_each(self.scales, several) and all(one > 0 for one in self.scales)),
        )

    def fingerprint(self) -> str:
        """Hash of the members' fingerprints, in their order."""
        joined = "\n".join(member.fingerprint() for member in self.members)
        return hashlib.sha256(joined.encode()).hexdigest()

    def check(self) -> None:
        """Raise ValueError if a member's check does."""
        for at, member in enumerate(self.members):
            with _of_member(at):
                member.check()

    def open(self, place: Place) -> EnsembleJudge:
        """Load all members onto `place.device`. Raises ValueError if one is no reward model."""
        with ExitStack() as opened:
            models: list[RewardJudge] = []
            for at, member in enumerate(self.members):
                with _of_member(at):
                    models.append(member.open(place))
                opened.callback(models[-1].close)
            opened.pop_all()
        return EnsembleJudge(self, tuple(models))


@dataclass(frozen=True)
class EnsembleJudge:
    """A loaded ensemble."""

    spec: Ensemble
    models: tuple[RewardJudge, ...]  # [M]

    def score(self, rollouts: Rollouts) -> Scored:
        """Aspects: z of each member as `member/<m>`, from 0, and `std`, the (population) std over members.

        Counts are the maximum over members.
        """
        each = [model.score(rollouts) for model in self.models]
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
        for model in self.models:
            model.step_aside()

    def come_back(self) -> None:
        for model in self.models:
            model.come_back()

    def close(self) -> None:
        """Release all members."""
        for model in self.models:
            model.close()

    def _standardised(self, scores: np.ndarray) -> np.ndarray:
        """z float64 [M, B, N] of scores [M, B, N]."""
        several = len(self.models)
        shifts = np.reshape(self.spec.shifts or [0.0] * several, (several, 1, 1))
        scales = np.reshape(self.spec.scales or [1.0] * several, (several, 1, 1))
        return np.asarray((scores.astype(np.float64) - shifts) / scales)

    def _combined(self, z: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Utility [B, N] of z [M, B, N] and its std [B, N]."""
        if self.spec.combine == "min":
            return np.asarray(z.min(axis=0))
        return np.asarray(z.mean(axis=0) - (self.spec.k * std if self.spec.combine == "pessimistic" else 0.0))


@contextmanager
def _of_member(at: int) -> Iterator[None]:
    """Name the member in a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"scorer.members.{at}: {error}") from error


def _one_each(values: list[float], several: int) -> bool:
    return not values or (len(values) == several and all(map(math.isfinite, values)))
