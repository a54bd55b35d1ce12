"""Nash-MD-PG, the policy gradient of Nash-MD. Munos et al. 2023, arXiv:2312.00886."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant
from rlhf_flow.objective.mixed_anchor import returned
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class NashMD(Constant):
    """Policy gradient of the first response, with reward P(first beats second) - 1/2 - tau * KL.

    The policy samples the first response; its opponent (the mixture of policy and reference, or another policy) the
    second, which gets no gradient. L = - sum_t ratio_t sg[A_t], with ratio_t = pi(y_t|.) / pi_previous(y_t|.) and
    A_t = P - 1/2 - tau sum_{s >= t} log pi(y_s|.) / pi_ref(y_s|.): the KL-to-go of each token, which gives the exact
    gradient of the sequence's KL. If pi = pi_previous, L has the score-function gradient. Later steps of a round weight
    each token by its own ratio only, the usual first-order approximation.
    """

    tau: float = 0.008  # strength of the KL to the reference
    clip: float | None = None  # PPO clip of the ratio to [1 - clip, 1 + clip]; null: none
    scalar_judge: str = "refuse"  # refuse | allow a judge that scores each response: its game is transitive

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(
                f"objective.tau must be >= 0, got {self.tau}. It is the strength of the KL to the reference: the paper "
                "uses 0.008; 0 leaves the game without a regulariser."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"objective.clip must be > 0, got {self.clip}. It clips the ratio of a token to 1 +- clip. "
                "Fix: objective.clip=0.2, or leave it out for no clipping."
            )
        if self.scalar_judge not in ("refuse", "allow"):
            raise ValueError(
                f"objective.scalar_judge must be refuse or allow, got {self.scalar_judge}. A judge that scores each "
                "response makes a transitive game, which simpler objectives solve too. "
                "Fix: objective.scalar_judge=allow to use it nevertheless."
            )

    @property
    def needs(self) -> Needs:
        return Needs(
            anchors=frozenset({"reference", "previous"}),
            sampled={"policy": "previous"},
            on_policy=True,
            returns=returned(self.tau),
            first_is_policy=True,
            general_preferences=self.scalar_judge == "refuse",
        )

    def loss(self, pairs: PairLogps) -> Loss:
        """The surrogate of each pair [P], of which only the gradient is meaningful, and its metrics.

        `preference` = P(first beats second); `kl` = the log-ratio of first to the reference, a sum over tokens, in
        nats: an unbiased estimate of the KL as long as pi = pi_previous.
        """
        import torch

        current, mask = pairs.current.first, pairs.current.first.mask  # [P, T]

        def log_ratio(anchor: str) -> torch.Tensor:
            return (current.values - pairs.anchors[anchor].first.values).masked_fill(~mask, 0)  # [P, T]

        kl = log_ratio("reference").detach()  # [P, T]
        to_go = kl.flip(-1).cumsum(-1).flip(-1)  # [P, T]: summed from each token to the end
        advantage = pairs.preference[:, None] - 0.5 - self.tau * to_go  # [P, T]
        ratio = log_ratio("previous").exp()  # [P, T]
        gain = ratio * advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        values = -(gain * mask).sum(-1)  # [P]
        return Loss(values, {"preference": pairs.preference, "kl": kl.sum(-1)})
