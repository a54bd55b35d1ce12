"""HyPO: offline DPO with the reverse KL of answers that the policy samples. Song et al. 2024, arXiv:2406.01462."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import Constant, extra_log_ratio
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class HyPO(Constant):
    """DPO, plus `kl` times an estimate of KL(pi || pi_ref) from the third response, which the policy sampled.

    The estimate is sg[rho] rho, with rho the log-ratio of that response: its gradient has the mean of the KL's, since
    E[grad log pi] = 0. DPO bounds the policy only where the data are; this bounds it everywhere.
    """

    beta: float = 0.1  # strength of the KL to the reference, inside of DPO
    kl: float = 1e-4  # weight of the KL of sampled answers: lambda of the paper

    def __post_init__(self) -> None:
        DPO(self.beta)
        if not (math.isfinite(self.kl) and self.kl >= 0):
            raise ValueError(f"objective.kl must be >= 0, got {self.kl}. It weighs the KL of sampled answers.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}), sampled={"policy": "policy"}, extra="policy", on_policy=True)

    def loss(self, pairs: PairLogps) -> Loss:
        """A loss of each pair [P] with the right gradient, in nats, and the metrics of DPO and `kl`."""
        labelled = DPO(self.beta).loss(pairs)
        rho = extra_log_ratio(pairs, "reference")  # [P]
        return Loss(labelled.values + self.kl * rho.detach() * rho, {**labelled.metrics, "kl": rho.detach()})
