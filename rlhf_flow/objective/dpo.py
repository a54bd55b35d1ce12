"""DPO. Rafailov et al. 2023, arXiv:2305.18290, eq. 7."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.types import Loss, PairLogps


@dataclass(frozen=True)
class DPO:
    """Binary cross-entropy of sigma(beta * delta) against P(first beats second).

    delta is the difference of the two log-ratios log pi(y|x) - log pi_ref(y|x), each a sum over tokens. A hard label is
    a preference of 0 or 1 and gives eq. 7; a soft one is its expectation over the label.
    """

    beta: float = 0.1  # strength of the KL to the reference

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(
                f"objective.beta must be > 0, got {self.beta}. It is the strength of the KL to the reference: "
                "the paper uses 0.1; smaller moves further from the reference, and the sign is never changed."
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference"})

    def at(self, round: int) -> DPO:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and its metrics.

        Metrics (float32 [P]): `margin` = beta * (chosen - rejected), `chosen` and `rejected` = the log-ratios of the
        preferred and of the other side, `accuracy` = 1 where the preferred side has the larger implicit reward. A pair
        of preference 1/2 prefers neither side: its margin is 0, chosen = rejected = the mean, and its accuracy is 1/2,
        as is that of equal rewards.
        """
        import torch
        from torch.nn.functional import logsigmoid

        reference = pairs.anchors["reference"]
        first = pairs.current.first.sum - reference.first.sum  # [P]
        second = pairs.current.second.sum - reference.second.sum  # [P]
        logit = self.beta * (first - second)  # [P]
        values = -pairs.preference * logsigmoid(logit) - (1 - pairs.preference) * logsigmoid(-logit)  # [P]
        with torch.no_grad():
            sign = torch.sign(pairs.preference - 0.5)  # [P]: 1 first is preferred, -1 second, 0 neither
            chosen = ((1 + sign) * first + (1 - sign) * second) / 2
            rejected = ((1 - sign) * first + (1 + sign) * second) / 2
            metrics = {
                "margin": self.beta * (chosen - rejected),
                "accuracy": (1 + torch.sign(chosen - rejected)) / 2,
                "chosen": chosen,
                "rejected": rejected,
            }
        return Loss(values=values, metrics=metrics)
