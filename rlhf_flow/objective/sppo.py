"""SPPO. Wu et al. 2024, arXiv:2405.00675."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.objective.log_ratios import check_reduction, log_ratios, pair_metrics, win_rates
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class SPPO:
    """The square of a(y) - eta (P(y beats pi_t) - 1/2), a(y) = log pi(y|x) - log pi_t(y|x); the mean of both sides.

    pi_t is the previous policy, which drew the answers, and P(y beats pi_t) the win rate of a response against the
    answers to its prompt, itself included. Each response has a target of its own, so both may rise; the pair's
    preference is not read. 1/2 stands for log Z / eta, which is never less.
    """

    eta: float = 1000.0  # size of a step; the released code has beta = 1 / eta
    reduction: str = "sum"  # sum | mean of the log-ratio over a response's tokens

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ValueError(
                f"objective.eta must be > 0, got {self.eta}. It is the size of a step, in nats a win rate: the paper "
                "uses 1000 (beta = 1 / eta = 0.001 in its code); smaller stays nearer to the previous policy."
            )
        check_reduction(self.reduction)

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"previous"}), side_value="win_rate", on_policy=True)

    def at(self, round: int) -> SPPO:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats squared, and its metrics.

        Those of `pair_metrics`, with 1 / eta as the scale; `h` = chosen - rejected; `target` = where h is drawn to. The
        preferred side is the one with the larger win rate.
        """
        first, second = log_ratios(pairs, "previous", reduction=self.reduction)  # [P]
        p, q = win_rates(pairs)  # [P]
        values = ((first - self.eta * (p - 0.5)) ** 2 + (second - self.eta * (q - 0.5)) ** 2) / 2  # [P]
        metrics = pair_metrics(first, second, (1 + p - q) / 2, scale=1 / self.eta)
        metrics["h"] = metrics["chosen"] - metrics["rejected"]
        metrics["target"] = self.eta * (p - q).abs()
        return Loss(values, metrics)
