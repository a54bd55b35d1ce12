"""CHORD: an expert's answer in each group of samples. Zhang et al. 2025, arXiv:2508.11408, eq. 4 to 7."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rlhf_flow.types import GroupLogps, Loss, Needs


@dataclass(frozen=True)
class CHORD:
    """(1 - mu) times the loss of `base`, plus mu times the negative log-likelihood of a token of the expert's answer.

    mu falls from `mu` to `mu_end` over `anneal` rounds. With `by_token`, each token weighs p (1 - p), p its
    probability: neither tokens that are certain nor those that are foreign disturb the policy.
    """

    base: Any = None  # any objective of groups: objective@objective.base=grpo
    mu: float = 0.9  # weight of the expert's answer in the first round
    mu_end: float = 0.05  # after `anneal` rounds
    anneal: int = 4  # rounds; 0: mu_end from the first round on
    by_token: bool = False  # weigh each token by p (1 - p): CHORD-phi

    def __post_init__(self) -> None:
        for name in ("mu", "mu_end"):
            if not 0 <= vars(self)[name] <= 1:
                raise ValueError(
                    f"objective.{name} must be in [0, 1], got {vars(self)[name]}. 0 leaves the expert out."
                )
        if self.anneal < 0:
            raise ValueError(f"objective.anneal must be >= 0 rounds, got {self.anneal}.")

    @property
    def needs(self) -> Needs:
        needs: Needs = self.base.needs
        return replace(needs, extra="dataset")

    def at(self, round: int) -> CHORD:
        """With the weight of this round, and the base of this round."""
        done = min(1.0, (round - 1) / self.anneal) if self.anneal else 1.0
        mu = self.mu + done * (self.mu_end - self.mu)
        return replace(self, base=self.base.at(round), mu=mu, mu_end=mu, anneal=0)

    def loss(self, groups: GroupLogps) -> Loss:
        """The loss of each group [G], the metrics of the base, `expert_nll` and `mu`."""
        expert = groups.extra
        if expert is None:
            raise ValueError("the objective reads an expert's answer to each prompt. Fix: selector.extra.")
        base, logps = self.base.loss(groups), expert.values  # [G, T]
        weight = (logps.exp() * (1 - logps.exp())).detach() if self.by_token else 1.0
        nll = -(weight * logps * expert.mask).sum(-1) / expert.mask.sum(-1).clamp(min=1)
        metrics = {"expert_nll": -expert.mean.detach(), "mu": nll.detach() * 0 + self.mu}
        return Loss((1 - self.mu) * base.values + self.mu * nll, {**base.metrics, **metrics})
