"""Training settings of every learner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rlhf_flow.learner.optimizer import LearningRate, Optimizer

TOKENS = {"cpu": 1024, "cuda": 16384}  # of a forward pass: on a CPU more would leave its caches
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}
LARGE = 10**9  # parameters from which layers are recomputed unless the user says otherwise


@dataclass(frozen=True)
class Training:
    """Batches, optimizer, learning rate, precision and memory."""

    batch: int = 64  # pairs per optimizer step, over all ranks
    tokens_per_batch: int | None = None  # of a rank's forward pass; null: 1024 on a CPU, 16384 on a GPU
    micro_batch: int | None = None  # most pairs per forward pass of one rank; null: as many as tokens_per_batch allows
    epochs: int = 1  # passes over a round's pairs
    clip: float | None = 1.0  # largest global gradient norm; 0 or null: off
    chunk: int = 1024  # tokens whose logits exist at once; affects memory, not the result
    gradient_checkpointing: str | None = None  # off | selective | full | null (selective above 1e9 weights)
    precision: str | None = None  # float32 (no TF32) | bfloat16 | null (by device): forward pass. Masters are float32
    optimizer_state: str = "carry"  # carry (keep it from round to round) | fresh (start each round with zero moments)
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
        if self.precision not in ("float32", "bfloat16", None):
            raise ValueError(f"{key}.precision must be float32 or bfloat16, or null, got {self.precision!r}")
        if self.gradient_checkpointing not in ("off", "selective", "full", None):
            raise ValueError(
                f"{key}.gradient_checkpointing must be off, selective or full, or null, got "
                f"{self.gradient_checkpointing!r}. Fix: {key}.gradient_checkpointing=full, which saves the most memory."
            )
        if self.optimizer_state not in ("carry", "fresh"):
            raise ValueError(f"{key}.optimizer_state must be carry or fresh, got {self.optimizer_state!r}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"{key}.threads must be >= 1, or null, got {self.threads}")

    def on(self, device: str) -> Training:
        """These settings, with the defaults of a device (cpu, cuda or cuda:n) in place of null."""
        kind = "cpu" if device == "cpu" else "cuda"
        tokens, precision = self.tokens_per_batch or TOKENS[kind], self.precision or PRECISION[kind]
        return replace(self, tokens_per_batch=tokens, precision=precision)

    def recomputes(self, parameters: int) -> str:
        """What is recomputed of a model's layers: off, selective or full."""
        return self.gradient_checkpointing or ("selective" if parameters >= LARGE else "off")
