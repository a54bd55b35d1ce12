"""SPPO. Wu et al. 2024, arXiv:2405.00675."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import Constant, check_reduction, log_ratios, pair_metrics, win_rates
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class SPPO(Constant):
    """The mean over both sides of (a(y) - eta (P(y beats pi_t) - 1/2))^2, a(y) = log pi(y|x) - log pi_t(y|x).

    pi_t is the previous policy, which sampled the responses, and P(y beats pi_t) the win rate of a response against all
    responses to its prompt, itself included. Each response has its own target, so both may rise; the pair's preference
    is unused. 1/2 approximates log Z / eta, and is a lower bound of it.
    """

    eta: float = 1000.0  # step size; the released code has beta = 1 / eta
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ValueError(
                f"objective.eta must be > 0, got {self.eta}. It is the step size, in nats per win rate: the paper "
                "uses 1000 (beta = 1 / eta = 0.001 in its code); smaller stays nearer to the previous policy."
            )
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"previous"}), side_value="win_rate", on_policy=True, returns="average")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and its metrics.

        The metrics of `pair_metrics` with scale 1 / eta; `h` = chosen - rejected; `target` = the value of h at the
        minimum. The preferred side is the one with the larger win rate.
        """
        first, second = log_ratios(pairs, "previous", reduction=self.reduction)  # [P]
        p, q = win_rates(pairs)  # [P]
        values = ((first - self.eta * (p - 0.5)) ** 2 + (second - self.eta * (q - 0.5)) ** 2) / 2  # [P]
        metrics = pair_metrics(first, second, (1 + p - q) / 2, scale=1 / self.eta)
        metrics["h"] = metrics["chosen"] - metrics["rejected"]
        metrics["target"] = self.eta * (p - q).abs()
        return Loss(values, metrics)
