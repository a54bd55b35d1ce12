"""The loss of a reward model. Bradley and Terry 1952; for language models Ouyang et al. 2022, arXiv:2203.02155.

The learner reads one number of each response, its reward r(x, y), and P(first beats second) = sigma(r_1 - r_2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.objective.log_ratios import pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps, TokenLogps

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = ("label", "margin", "scale")


@dataclass(frozen=True)
class BradleyTerry:
    """Cross-entropy of sigma(r_1 - r_2) against the label; with `center` times (r_1 + r_2)^2, which fixes the level.

    `strength` is what a label p other than 0 and 1 means. With m = |log(p / (1 - p))|, and g the winner's reward less
    the loser's:
    label   the probability: -p log sigma(r_1 - r_2) - (1 - p) log sigma(r_2 - r_1)
    margin  how much the winner leads: -log sigma(g - m), Touvron et al. 2023, arXiv:2307.09288
    scale   how much the pair counts: -m log sigma(g), Wang et al. 2024, arXiv:2410.01257
    At p = 1/2 neither wins, and the last two draw the rewards together or leave the pair out.
    """

    strength: str = "label"  # label | margin | scale
    center: float = 0.0  # Eisenstein et al. 2023, arXiv:2312.09244: 0.01 is common; 0: off

    def __post_init__(self) -> None:
        if self.strength not in STRENGTHS:
            raise ValueError(f"objective.strength must be one of {', '.join(STRENGTHS)}, got {self.strength!r}")
        check_center(self.center)

    @property
    def needs(self) -> Needs:
        return Needs(readout="number")

    def at(self, round: int) -> BradleyTerry:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and its metrics: those of `pair_metrics`, of rewards.

        Raises ValueError where the learner reads anything but one number of each response, or where the strength of a
        label of 0 or 1 is asked for.
        """
        first, second = rewards(pairs)  # [P]
        gap, p = first - second, pairs.preference
        values = soft(cross_entropy, gap, p) if self.strength == "label" else self._by_strength(gap, p)
        return Loss(
            values + self.center * (first + second) ** 2,
            pair_metrics(first.detach(), second.detach(), p, scale=1.0),
        )

    def _by_strength(self, gap: Tensor, preference: Tensor) -> Tensor:
        import torch

        strength = preference.logit().abs()  # [P], nats
        if not strength.isfinite().all():
            raise ValueError(
                f"objective.strength={self.strength} needs labels that say how strongly a side is preferred, and a "
                "preference of 0 or 1 does not. Use scorer.strength or scorer.ratings, or objective.strength=label."
            )
        won = (1 + torch.sign(preference - 0.5)) / 2
        if self.strength == "margin":
            return soft(lambda g: cross_entropy(g - strength), gap, won)
        return strength * soft(cross_entropy, gap, won)


def cross_entropy(logit: Tensor) -> Tensor:
    """-log sigma, in nats."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(logit)


def rewards(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """The rewards of first and second [P]. Raises ValueError where responses have another number of numbers."""
    first, second = (numbers(side) for side in (pairs.current.first, pairs.current.second))  # [P, D]
    if first.shape[-1] != 1:
        raise ValueError(
            f"the objective reads one number of each response, and the learner reads {first.shape[-1]}. "
            "Try learner.head.outputs=1."
        )
    return first[:, 0], second[:, 0]


def numbers(side: TokenLogps) -> Tensor:
    """What the head of a reward model says of P responses, [P, D]. Raises ValueError where they are log-probs."""
    if not side.mask.all():  # responses have different numbers of tokens, and a head always as many outputs
        raise ValueError(
            "the objective fits a reward model, and the learner reads the log-probs of a policy. "
            "Try rlhf-flow train-reward, which gives the learner a head."
        )
    return side.values


def check_center(center: float) -> None:
    """Raise ValueError for a weight of the square of the level that is negative."""
    if not center >= 0:
        raise ValueError(f"objective.center must be >= 0, got {center}. 0 turns it off; 0.01 is common.")
