"""Nash-MD-PG, the policy gradient of Nash-MD. Munos et al. 2023, arXiv:2312.00886."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class NashMD:
    """Policy gradient of the first response, whose reward is P(first beats second) - 1/2 - tau * KL.

    The policy draws the first response; its opponent (the mixture of policy and reference, or another) the second,
    which gets no gradient. L = - sum_t ratio_t sg[A_t], where ratio_t = pi(y_t|.) / pi_previous(y_t|.) and
    A_t = P - 1/2 - tau sum_{s >= t} log pi(y_s|.) / pi_ref(y_s|.): each token answers for the KL of what follows, which
    is the exact gradient of the sequence's KL. Where pi is the previous policy, the one that drew, L has the gradient
    of the score function. Further steps of a round weigh each token by its own ratio alone, the usual first-order
    approximation.
    """

    tau: float = 0.008  # strength of the KL to the reference
    clip: float | None = None  # the ratio gains nothing outside of [1 - clip, 1 + clip]; null: it is not clipped
    scalar_judge: str = "refuse"  # refuse | allow a judge that gives each answer a number: the game has no cycles then

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(
                f"objective.tau must be >= 0, got {self.tau}. It is the strength of the KL to the reference: the paper "
                "uses 0.008; 0 leaves the game without a regulariser."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"objective.clip must be > 0, got {self.clip}. It bounds how far a token's ratio pays, to 1 +- clip. "
                "Try objective.clip=0.2, or leave it out to clip nothing."
            )
        if self.scalar_judge not in ("refuse", "allow"):
            raise ValueError(
                f"objective.scalar_judge must be refuse or allow, got {self.scalar_judge}. A judge that gives each "
                "answer a number makes a game without cycles, whose solution simpler objectives find as well. "
                "Try objective.scalar_judge=allow to play it all the same."
            )

    @property
    def needs(self) -> Needs:
        return Needs(
            anchors=frozenset({"reference", "previous"}),
            on_policy=True,
            first_is_policy=True,
            general_preferences=self.scalar_judge == "refuse",
        )

    def at(self, round: int) -> NashMD:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The surrogate of each pair [P], of which only the gradient means something, and its metrics.

        `preference` = P(first beats second); `kl` = the log-ratio of first to the reference, a sum over tokens, in
        nats: an unbiased estimate of the KL while the policy is the one that drew.
        """
        import torch

        current, mask = pairs.current.first, pairs.current.first.mask  # [P, T]

        def log_ratio(anchor: str) -> torch.Tensor:
            return (current.values - pairs.anchors[anchor].first.values).masked_fill(~mask, 0)  # [P, T]

        kl = log_ratio("reference").detach()  # [P, T]
        to_go = kl.flip(-1).cumsum(-1).flip(-1)  # [P, T]: from each token to the end
        advantage = pairs.preference[:, None] - 0.5 - self.tau * to_go  # [P, T]
        ratio = log_ratio("previous").exp()  # [P, T]
        gain = ratio * advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        values = -(gain * mask).sum(-1)  # [P]
        return Loss(values, {"preference": pairs.preference, "kl": kl.sum(-1)})
