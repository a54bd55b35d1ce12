"""Settings of LoRA adapters. Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rlhf_flow.learner.reward_head import Head
from rlhf_flow.system.optional_deps import require


@dataclass(frozen=True)
class LoRA:
    """W + (alpha / rank) B A: the base W is frozen, B and A are trained, without dropout."""

    rank: int = 0  # of B A; 0: train all weights, without an adapter
    alpha: float = 32.0  # scale of the adapter, usually twice the rank
    targets: list[str] = field(
        default_factory=list
    )  # linear layers by the ends of their names, such as q_proj; []: all
    seed: int = 0  # of A; B starts at zero, so the policy starts as the base
    quantize: str | None = None  # nf4: the learner holds the base in 4 bits (QLoRA, arXiv:2305.14314), on a GPU

    def __post_init__(self) -> None:
        key = "learner.lora"
        if self.rank < 0:
            raise ValueError(f"{key}.rank must be >= 0, got {self.rank}. Usual: 16; 0 trains all weights")
        if not self.alpha > 0:
            raise ValueError(f"{key}.alpha must be > 0, got {self.alpha}. Usual: twice the rank")
        if self.quantize not in ("nf4", None):
            raise ValueError(f"{key}.quantize must be nf4 or null, got {self.quantize!r}")
        if self.quantize and not self.rank:
            raise ValueError(f"{key}.quantize={self.quantize} needs an adapter to train. Fix: {key}.rank=16")
        if self.seed < 0:
            raise ValueError(f"{key}.seed must be >= 0, got {self.seed}. Fix: {key}.seed=0")

    def check(self, head: Head) -> None:
        """Raise ValueError for a reward model, which cannot be trained with an adapter."""
        if self.rank and head.outputs:
            raise ValueError(
                f"learner.lora.rank must be 0 with learner.head.outputs={head.outputs}, got {self.rank}: the new head "
                "of a reward model is not low-rank. Fix: learner.lora.rank=0, which trains all weights."
            )

    def check_installed(self) -> None:
        """Raise ValueError if adapters need peft and it is not installed."""
        if self.rank:
            require("peft", part="learner.lora", extras=("lora",), instead="learner.lora.rank=0")
        if self.quantize:
            require(
                "bitsandbytes", part="learner.lora.quantize", extras=("qlora",), instead="learner.lora.quantize=null"
            )

    def check_device(self, device: str) -> None:
        """Raise ValueError if the base cannot be held on this device."""
        if self.quantize and device == "cpu":
            raise ValueError(
                f"learner.lora.quantize={self.quantize} needs a GPU: on a CPU, products with 4-bit weights are many "
                "times slower. Fix: learner.lora.quantize=null, with model.dtype=bfloat16 to halve the base."
            )

    def chosen(self, linear: Collection[str], others: Collection[str]) -> list[str]:
        """The name ends of the layers that get an adapter, out of `linear`; `others` cannot have one.

        Raises ValueError if a target is not a linear layer.
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
