"""PRO: a ranking of all answers, from the best to the worst. Song et al. 2023, arXiv:2306.17492, eq. 7 and 9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs

if TYPE_CHECKING:
    from torch import Tensor

CLOSEST = 1e-6  # smallest difference of two worths


@dataclass(frozen=True)
class PRO(Constant):
    """-sum_k log softmax of the k-th best answer among those that are worse, plus the best one's likelihood.

    The logit of an answer is its mean log-prob s of a token over a temperature. With the worths r_1 > r_2 > ..., in
    step k an answer i > k has 1/T = r_k - r_i, and k itself the largest of these. No reference.
    """

    nll: float = 0.05  # weight of the best answer's likelihood, times (k - 1)^2

    def __post_init__(self) -> None:
        if not self.nll >= 0:
            raise ValueError(f"objective.nll must be >= 0, got {self.nll}. 0 leaves the likelihood out.")

    @property
    def needs(self) -> Needs:
        return Needs(examples="groups", order="worth", side_value="any")

    def loss(self, groups: GroupLogps) -> Loss:
        """The loss of each group [G], in nats; `nll` = that of the best answer. The best answer of a group is first."""
        import torch

        scores, values, nll = groups.current.mean, [], []
        for g in range(len(groups.weight)):
            mine = groups.group == g
            s, r = scores[mine], groups.worth[mine]
            steps = [_step(s[k:], r[k:]) for k in range(len(s) - 1)]
            nll.append(-groups.current.sum[mine][0])
            values.append(torch.stack(steps).sum() + self.nll * (len(s) - 1) ** 2 * nll[-1])
        return Loss(torch.stack(values), {"nll": torch.stack(nll).detach()})


def _step(scores: Tensor, worth: Tensor) -> Tensor:
    """-log softmax of the first of the answers that are left."""
    import torch

    cold = (worth[0] - worth[1:]).clamp(min=CLOSEST)  # 1 / T of the others
    logits = scores * torch.cat([cold.max()[None], cold])
    return -logits.log_softmax(0)[0]
