"""The negative log-likelihood of a response: supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """-log pi(y|x) in nats, per token: the sum over all response tokens of a batch over their number.

    A long response counts as much as its tokens do, as in public trainers.
    """

    usual_rate: ClassVar[float] = 20.0  # 1e-5 for 7 B

    @property
    def needs(self) -> Needs:
        return Needs(examples="groups")

    def at(self, round: int) -> NegativeLogLikelihood:
        """The same in every round."""
        return self

    def loss(self, groups: GroupLogps) -> Loss:
        """[G]: over the mean tokens of a group, so that the weighted mean over the batch is that over its tokens."""
        return Loss(-groups.sum(groups.current.sum) / groups.tokens, {})
