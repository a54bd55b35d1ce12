"""Training settings of every learner."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.learner.optimizer import LearningRate, Optimizer

TOKENS = {"cpu": 1024, "cuda": 16384}  # of a forward pass: on a CPU more would leave its caches


@dataclass(frozen=True)
class Training:
    """Batches, optimizer, learning rate, precision and memory."""

    batch: int = 64  # pairs per optimizer step, over all ranks
    tokens_per_batch: int | None = None  # of a rank's forward pass; null: 1024 on a CPU, 16384 on a GPU
    micro_batch: int | None = None  # most pairs per forward pass of one rank; null: as many as tokens_per_batch allows
    epochs: int = 1  # passes over a round's pairs
    clip: float | None = 1.0  # largest global gradient norm; 0 or null: off
    chunk: int = 1024  # tokens whose logits exist at once; affects memory, not the result
    gradient_checkpointing: bool = False  # recompute each layer in the backward pass
    precision: str = "float32"  # of the forward pass: float32 or bfloat16; master weights are always float32
    optimizer_state: str = "carry"  # carry: keep it from round to round; fresh: start each round with zero moments
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: LearningRate = field(default_factory=LearningRate)
    threads: int | None = None  # CPU threads of a rank; null: all cores that no other process uses meanwhile

    def __post_init__(self) -> None:
        key = "learner.training"
        for name in ("batch", "epochs", "chunk"):
            if vars(self)[name] < 1:
                raise ValueError(f"{key}.{name} must be >= 1, got {vars(self)[name]}")
        for name in ("tokens_per_batch", "micro_batch"):
            if vars(self)[name] is not None and vars(self)[name] < 1:
                raise ValueError(f"{key}.{name} must be >= 1, or null, got {vars(self)[name]}")
        if self.clip is not None and self.clip < 0:
            raise ValueError(f"{key}.clip must be >= 0 (0 or null: off), got {self.clip}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"{key}.precision must be float32 or bfloat16, got {self.precision!r}")
        if self.optimizer_state not in ("carry", "fresh"):
            raise ValueError(f"{key}.optimizer_state must be carry or fresh, got {self.optimizer_state!r}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"{key}.threads must be >= 1, or null, got {self.threads}")

    def tokens(self, device: str) -> int:
        """The tokens of a forward pass on a device."""
        return self.tokens_per_batch or TOKENS[device]
