"""The loss of a language model that is asked which of two responses is better, A or B.

RLHF Workflow, Dong et al. 2024, arXiv:2405.07863; its judge is `scorer=preference_model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps


@dataclass(frozen=True)
class GenerativePreference(Constant):
    """Cross-entropy of sigma(log pi(y_1|x) - log pi(y_2|x)) against P(y_1 beats y_2): no reference, no scale.

    With prompts.compare, x is the question and y a letter, so the difference is that of two logits at one position. The
    other tokens are ignored, as the judge ignores them. The paper fits the letter among all tokens.
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 for 7 B

    @property
    def needs(self) -> Needs:
        return Needs()

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics`, of log-probs."""
        first, second = pairs.current.first.sum, pairs.current.second.sum  # [P]
        values = soft(cross_entropy, first - second, pairs.preference)
        return Loss(values, pair_metrics(first, second, pairs.preference, scale=1.0))
