"""The best answer against the worst. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, section 3.2."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_flow.selector.pairing import Choice, Pairing
from rlhf_flow.types import Scored, Selection


@dataclass(frozen=True)
class BestAndWorst(Pairing):
    """The responses of highest and of lowest utility; among equals the first drawn.

    Responses of equal utility are a tie. Who won the pair is said by `wins`, head to head, as for every selector: a
    judge that can cycle may prefer the worst to the best. Responses without a utility (the judge abstained) are passed
    over while there are two with one.

    With a length penalty (eq. 9) one number ranks and labels: the utility less the penalty says which response is best,
    which is worst, and that the best won. `wins` knows of no penalty, so there is no probability to teach, and the
    labels soft and sampled are refused.
    """

    length_penalty: float = 0.0  # utility per character of the answer's text; the paper: 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.length_penalty >= 0:
            raise ValueError(
                f"selector.length_penalty must be >= 0, got {self.length_penalty}. It is what a character costs: "
                "use 0 for none."
            )
        if self.length_penalty and self.label != "hard":
            raise ValueError(
                f"selector.label must be hard where selector.length_penalty is not 0, got {self.label}: the judge's "
                "probabilities know of no penalty. Try selector.label=hard, or selector.length_penalty=0."
            )

    def select(self, scored: Scored) -> Selection:
        decides = self.length_penalty > 0

        def choose(b: int, left: list[int]) -> list[Choice]:
            worth = {k: float(scored.utility[b, k]) for k in left if not math.isnan(scored.utility[b, k])}
            if len(worth) < 2:
                return [Choice(left[0], left[1], refused="abstained" if decides else None)]
            if decides:
                answers = scored.rollouts.responses[b]
                worth = {k: utility - self.length_penalty * len(answers[k].text) for k, utility in worth.items()}
            best = max(worth, key=lambda k: (worth[k], -k))
            worst = min((k for k in worth if k != best), key=lambda k: (worth[k], k))
            return [Choice(best, worst, tied=worth[best] == worth[worst], wins=1.0 if decides else None)]

        return self.pairs(scored, choose)
