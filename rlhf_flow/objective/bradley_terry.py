"""The loss of a reward model. Bradley and Terry 1952; for language models Ouyang et al. 2022, arXiv:2203.02155.

The model has one output per response, its reward r(x, y), and P(first beats second) = sigma(r_1 - r_2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps, TokenLogps

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = ("label", "margin", "scale")


@dataclass(frozen=True)
class BradleyTerry(Constant):
    """Cross-entropy of sigma(r_1 - r_2) against the label, plus `center` * (r_1 + r_2)^2, which fixes the level.

    `strength` is the meaning of a label p other than 0 and 1. With m = |log(p / (1 - p))|, and g the winner's reward
    minus the loser's:
    label   a probability: -p log sigma(r_1 - r_2) - (1 - p) log sigma(r_2 - r_1)
    margin  the winner's lead: -log sigma(g - m), Touvron et al. 2023, arXiv:2307.09288
    scale   the pair's weight: -m log sigma(g), Wang et al. 2024, arXiv:2410.01257
    At p = 1/2 `margin` pulls the rewards together, and `scale` ignores the pair.
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 for 7 B

    strength: str = "label"  # label | margin | scale
    center: float = 0.0  # 0: off; 0.01 is common: Eisenstein et al. 2023, arXiv:2312.09244

    def __post_init__(self) -> None:
        if self.strength not in STRENGTHS:
            raise ValueError(f"objective.strength must be one of {', '.join(STRENGTHS)}, got {self.strength!r}")
        check_center(self.center)

    @property
    def needs(self) -> Needs:
        return Needs(readout="number")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and the metrics of `pair_metrics`, of rewards.

        Raises ValueError unless the model has one output per response, and for a label of 0 or 1 with strength margin
        or scale.
        """
        first, second = rewards(pairs)  # [P]
        gap, p = first - second, pairs.preference
        values = soft(cross_entropy, gap, p) if self.strength == "label" else self._by_strength(gap, p)
        return Loss(
            values + self.center * (first + second) ** 2,
            pair_metrics(first, second, p, scale=1.0),
        )

    def _by_strength(self, gap: Tensor, preference: Tensor) -> Tensor:
        import torch

        strength = preference.logit().abs()  # [P], nats
        if not strength.isfinite().all():
            raise ValueError(
                f"objective.strength={self.strength} needs labels that say how strongly a side is preferred, which a "
                "preference of 0 or 1 does not. Fix: scorer.strength or scorer.ratings, or objective.strength=label."
            )
        won = (1 + torch.sign(preference - 0.5)) / 2
        if self.strength == "margin":
            return soft(lambda g: cross_entropy(g - strength), gap, won)
        return strength * soft(cross_entropy, gap, won)


def rewards(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """The rewards of first and second [P]. Raises ValueError unless the model has one output."""
    first, second = (numbers(side) for side in (pairs.current.first, pairs.current.second))  # [P, D]
    if first.shape[-1] != 1:
        raise ValueError(
            f"the objective reads one number of each response, but the learner reads {first.shape[-1]}. "
            "Fix: learner.head.outputs=1."
        )
    return first[:, 0], second[:, 0]


def numbers(side: TokenLogps) -> Tensor:
    """The outputs of a reward model for P responses, [P, D]. Raises ValueError if they are log-probs."""
    if not side.mask.all():  # log-probs are masked: responses differ in length
        raise ValueError(
            "the objective trains a reward model, but the learner reads the log-probs of a policy. "
            "Fix: rlhf-flow train-reward, which gives the learner a head."
        )
    return side.values


def check_center(center: float) -> None:
    """Raise ValueError if it is negative."""
    if not center >= 0:
        raise ValueError(f"objective.center must be >= 0, got {center}. 0 turns it off; 0.01 is common.")
