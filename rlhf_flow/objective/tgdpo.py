"""TGDPO: token-level guidance by another reward policy. Zhu et al. 2025, arXiv:2506.14574, eq. 14."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics
from rlhf_flow.types import Loss, Needs, PairLogps

if TYPE_CHECKING:
    from torch import Tensor

REWARD = "reward_policy"  # anchors.policies: the checkpoint of a policy that DPO or SimPO trained


@dataclass(frozen=True)
class TGDPO(Constant):
    """DPO whose tokens weigh 1 + alpha r_t in the winner and 1 - alpha r_t in the loser.

    r_t = beta (log pi_reward(y_t|.) - log pi_ref(y_t|.)) is the implicit reward of a token by another policy, given as
    anchors.policies.reward_policy. A token that it finds good counts more in the winner and less in the loser.
    """

    beta: float = 0.1  # strength of the KL to the reference
    alpha: float = 0.5  # strength of the guidance; 0 is DPO

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not self.alpha >= 0:
            raise ValueError(f"objective.alpha must be >= 0, got {self.alpha}. The paper uses 0.5; 0 is DPO.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference", REWARD}))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics` with scale beta.

        A soft label p is the probability that first is the winner.
        """
        first, second = ([self._guided(pairs, side, sign) for sign in (1, -1)] for side in ("first", "second"))
        forth, back = (
            cross_entropy(self.beta * (won[0] - lost[1])) for won, lost in ((first, second), (second, first))
        )
        values = pairs.preference * forth + (1 - pairs.preference) * back
        return Loss(values, pair_metrics(first[0], second[0], pairs.preference, scale=self.beta))

    def _guided(self, pairs: PairLogps, side: str, sign: int) -> Tensor:
        """The log-ratio of a side to the reference [P], each token times 1 + sign alpha r_t."""
        current, reference, reward = (
            vars(sides)[side] for sides in (pairs.current, pairs.anchors["reference"], pairs.anchors[REWARD])
        )
        guidance = self.beta * (reward.values - reference.values)  # [P, T]
        ratio = (1 + sign * self.alpha * guidance) * (current.values - reference.values)
        return ratio.masked_fill(~current.mask, 0).sum(-1)
