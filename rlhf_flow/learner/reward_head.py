"""The head of a reward model: how many numbers it gives of a response, and how a new one begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """A linear layer on the last token's hidden state.

    A checkpoint for sequence classification brings its own. On a language model a new one is drawn, from `seed` alone:
    N(0, 1 / (H + 1)) for hidden states of H numbers, Stiennon et al. 2020, arXiv:2009.01325, which makes outputs of
    about 1.
    """

    outputs: int = 0  # 0: no head, a policy; 1: a reward; 2k: the embedding of a general preference model of k blocks
    seed: int = 0  # of its first weights

    def __post_init__(self) -> None:
        if self.outputs < 0:
            raise ValueError(
                f"learner.head.outputs must be >= 0, got {self.outputs}. 0 is a policy without a head, 1 a reward, an "
                "even number an embedding."
            )
        if self.seed < 0:
            raise ValueError(f"learner.head.seed must be >= 0, got {self.seed}. Try learner.head.seed=0.")
