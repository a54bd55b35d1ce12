"""The loss of a general preference model (GPM). Zhang et al. 2024, arXiv:2410.02197."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.objective.bradley_terry import numbers
from rlhf_flow.objective.log_ratios import Constant, cross_entropy, pair_metrics, soft
from rlhf_flow.types import Loss, Needs, PairLogps

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GeneralPreference(Constant):
    """Cross-entropy of sigma(s) against the label, with s = <R v_1, v_2>, in nats.

    v is the embedding [2k] of a response; R has k blocks [[0, -1], [1, 0]]. s is skew-symmetric: it changes sign with
    the order, so preferences may be intransitive. The paper's temperature and block scales are factors of v, which the
    head learns.
    """

    usual_rate: ClassVar[float] = 10.0  # 5e-6 for 7 B

    @property
    def needs(self) -> Needs:
        return Needs(readout="embedding")

    def loss(self, pairs: PairLogps) -> Loss:
        """The loss of each pair [P], in nats, and its metrics: `margin` = s of the preferred side, and `accuracy`.

        Raises ValueError unless the model has an even number of outputs per response.
        """
        first, second = numbers(pairs.current.first), numbers(pairs.current.second)  # [P, 2k]
        if first.shape[-1] % 2:
            raise ValueError(
                "the objective reads an embedding of each response, an even number of numbers, and the learner reads "
                f"{first.shape[-1]}. Fix: learner.head.outputs=8."
            )
        s = skew(first, second)  # [P]
        metrics = pair_metrics(s, -s, pairs.preference, scale=0.5)
        return Loss(soft(cross_entropy, s, pairs.preference), {name: metrics[name] for name in ("margin", "accuracy")})


def skew(first: Tensor, second: Tensor) -> Tensor:
    """<R v_1, v_2> of embeddings [..., 2k]: the sum over blocks of v_11 v_22 - v_12 v_21, as in the released code."""
    blocks = first[..., 0::2] * second[..., 1::2] - first[..., 1::2] * second[..., 0::2]  # [..., k]
    return blocks.sum(-1)
