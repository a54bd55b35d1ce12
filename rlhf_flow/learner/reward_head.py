"""The head of a reward model: its outputs, and its initialisation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """A linear layer on the last token's hidden state.

    A checkpoint for sequence classification has its own. A language model gets a new one, drawn from `seed` only:
    N(0, 1 / (H + 1)) for hidden size H, Stiennon et al. 2020, arXiv:2009.01325, which makes outputs of about 1.
    """

    outputs: int = 0  # 0: none, a policy; 1: a reward; 2k: the embedding of a general preference model
    seed: int = 0  # of a new head

    def __post_init__(self) -> None:
        if self.outputs < 0:
            raise ValueError(
                f"learner.head.outputs must be >= 0, got {self.outputs}. 0 is a policy without a head, 1 a reward, an "
                "even number an embedding."
            )
        if self.seed < 0:
            raise ValueError(f"learner.head.seed must be >= 0, got {self.seed}. Fix: learner.head.seed=0.")
