"""f-DPO: other divergences than the reverse KL. Wang et al. 2023, arXiv:2309.16240, eq. 14 and table 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.log_ratios import Constant, cross_entropy, log_ratios, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps

if TYPE_CHECKING:
    from torch import Tensor

DIVERGENCES = ("reverse_kl", "forward_kl", "jensen_shannon", "alpha")


@dataclass(frozen=True)
class FDPO(Constant):
    """-log sigma(beta (f'(u_w) - f'(u_l))), u = pi / pi_ref of a whole response.

    f' up to a constant, with rho = log u: reverse KL rho (DPO); forward KL -exp(-rho); Jensen-Shannon log sigma(rho);
    alpha -exp(-alpha rho) / alpha, which is the reverse KL at 0 and the forward KL at 1.
    """

    beta: float = 0.1  # strength of the divergence to the reference
    divergence: str = "jensen_shannon"  # reverse_kl | forward_kl | jensen_shannon | alpha
    alpha: float = 0.5  # of the divergence alpha, in (0, 1)
    clip: float = 50.0  # bound of -rho, nats: forward KL and alpha are exponentials of it

    def __post_init__(self) -> None:
        DPO(self.beta)
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"objective.divergence must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"objective.alpha must be in (0, 1), got {self.alpha}. 0 is reverse_kl, 1 forward_kl.")
        if not self.clip > 0:
            raise ValueError(f"objective.clip must be > 0, got {self.clip}. It bounds an exponent: 50 hardly does.")

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics` with scale beta."""
        first, second = log_ratios(pairs, "reference")  # [P]
        values = soft(cross_entropy, self.beta * (self.slope(first) - self.slope(second)), pairs.preference)
        return Loss(values, pair_metrics(first, second, pairs.preference, scale=self.beta))

    def slope(self, rho: Tensor) -> Tensor:
        """f'(u) up to a constant, of rho = log u."""
        from torch.nn.functional import logsigmoid

        if self.divergence == "reverse_kl":
            return rho
        if self.divergence == "jensen_shannon":
            return logsigmoid(rho)
        power = 1.0 if self.divergence == "forward_kl" else self.alpha
        return -(-power * rho.clamp(min=-self.clip)).exp() / power
