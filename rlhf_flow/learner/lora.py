"""Adapters instead of weights: what a learner is told about them. Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rlhf_flow.learner.reward_head import Head
from rlhf_flow.system.optional_deps import require


@dataclass(frozen=True)
class LoRA:
    """W + (alpha / rank) B A: the base W stays as it is, and B and A are trained. There is no dropout anywhere."""

    rank: int = 0  # of B A; 0: no adapter, all weights are trained
    alpha: float = 32.0  # scale of the adapter, usually twice the rank
    targets: list[str] = field(default_factory=list)  # q_proj, ...: linear layers by the end of their names; none: all
    seed: int = 0  # of A; B begins at zero, so that the policy begins as the base

    def __post_init__(self) -> None:
        key = "learner.lora"
        if self.rank < 0:
            raise ValueError(f"{key}.rank must be >= 0, got {self.rank}. Usual: 16; 0 trains all weights")
        if not self.alpha > 0:
            raise ValueError(f"{key}.alpha must be > 0, got {self.alpha}. Usual: twice the rank")
        if self.seed < 0:
            raise ValueError(f"{key}.seed must be >= 0, got {self.seed}. Try {key}.seed=0")

    def check(self, head: Head) -> None:
        """Raise ValueError where adapters cannot be trained: on a reward model."""
        if self.rank and head.outputs:
            raise ValueError(
                f"learner.lora.rank must be 0 with learner.head.outputs={head.outputs}, got {self.rank}: the new head "
                "of a reward model is no low-rank term. Train all its weights, with learner.lora.rank=0."
            )

    def check_installed(self) -> None:
        """Raise ValueError where adapters are asked for and peft is missing."""
        if self.rank:
            require("peft", part="learner.lora", extras=("lora",), instead="learner.lora.rank=0")

    def chosen(self, linear: Collection[str], others: Collection[str]) -> list[str]:
        """The ends of the names of the layers that get an adapter, of all `linear` ones; `others` can have none.

        Raises ValueError for a target that is no linear layer.
        """
        can = {end(name) for name in linear} - {end(name) for name in others}
        if not can:
            raise ValueError(
                "learner.lora needs linear layers (torch.nn.Linear) other than the output, and this model has none: "
                "GPT-2 has Conv1D. Fix: learner.lora.rank=0, which trains all weights."
            )
        if unknown := sorted(set(self.targets) - can):
            raise ValueError(
                f"learner.lora.targets must name linear layers other than the output, got {unknown[0]!r}. "
                f"This model has {', '.join(sorted(can))}. "
                f"Fix: learner.lora.targets=[{min(can)}], or [] for all of them."
            )
        return sorted(self.targets or can)


def end(name: str) -> str:
    """The last part of a layer's dotted name."""
    return name.rpartition(".")[2]
