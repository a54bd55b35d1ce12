"""A-LoL: advantage-weighted likelihood of answers of the reference. Baheti et al. 2023, arXiv:2305.14718, eq. 4."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.groups import advantage, log_ratio
from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class ALoL(Constant):
    """-sg[A ratio] log pi(y) of the answers with A > 0; ratio = pi / pi_ref, clipped to [1 - clip, 1 + clip].

    A is the worth above the reference's value. The answers are samples of the reference, so that value is the mean of
    their group; the paper fits a head to it. Answers that are worse than the mean are left out.
    """

    clip: float = 0.9  # of the ratio of a whole answer

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1:
            raise ValueError(f"objective.clip must be in (0, 1), got {self.clip}. The paper's scripts use 0.9.")

    @property
    def needs(self) -> Needs:
        reference = frozenset({"reference"})
        return Needs(reference, sampled={"reference": "reference"}, examples="groups", side_value="any")

    def loss(self, groups: GroupLogps) -> Loss:
        """The surrogate of each group [G], of which only the gradient is meaningful; `kept`: the share with A > 0."""
        gained = advantage(groups).clamp(min=0)  # [A]
        # clipped as a logarithm: the ratio of a long answer overflows
        bounds = groups.worth.new_tensor([1 - self.clip, 1 + self.clip]).log()
        ratio = log_ratio(groups, "reference").detach().clamp(*bounds).exp()
        kept = groups.mean((gained > 0).to(gained.dtype))
        return Loss(-groups.mean(gained * ratio * groups.current.sum), {"kept": kept})
