"""What all learners have in common: the fields and answers of their specs."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.training import Training


@dataclass(frozen=True)
class TrainingSpec:
    ranks: int = 1  # processes
    sequence_ranks: int = 1  # of them that share each forward pass, for long answers (Ulysses); the others are replicas
    compile: bool = False  # decoder layers by torch.compile: faster after a minute; lines have four lengths
    training: Training = field(default_factory=Training)
    head: Head = field(default_factory=Head)  # of a reward model
    lora: LoRA = field(default_factory=LoRA)  # train an adapter instead of the weights

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ValueError(f"learner.ranks must be >= 1, got {self.ranks}")
        if self.sequence_ranks < 1 or self.ranks % self.sequence_ranks:
            raise ValueError(
                f"learner.sequence_ranks must divide learner.ranks={self.ranks}, got {self.sequence_ranks}. "
                "Fix: learner.sequence_ranks=1, or more ranks."
            )
        if self.sequence_ranks > 1 and self.head.outputs:
            raise ValueError(
                f"learner.sequence_ranks must be 1 for a reward model, got {self.sequence_ranks}. "
                "Fix: learner.sequence_ranks=1."
            )
        self.lora.check(self.head)

    @property
    def can_average(self) -> bool:
        return self.lora.rank == 0

    @property
    def broadcasts(self) -> bool:
        """Adapters are small, and engines of policies only receive weights."""
        return self.lora.rank == 0 and not self.head.outputs

    def fingerprint(self) -> str:
        return ""

    def check(self) -> None:
        self.lora.check_installed()
