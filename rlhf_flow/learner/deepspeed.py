"""The learner with DeepSpeed, one process per rank."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import Learner
from rlhf_flow.specs import Model, Place
from rlhf_flow.system.optional_deps import require


@dataclass(frozen=True)
class DeepSpeed:
    """Data-parallel training with ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054)."""

    ranks: int = 1  # data-parallel processes
    zero_stage: int = 2  # 0: no sharding; 1: moments; 2: also gradients; 3: also weights
    config: str | None = None  # a DeepSpeed JSON, for settings without a key here
    training: Training = field(default_factory=Training)
    head: Head = field(default_factory=Head)  # of a reward model
    lora: LoRA = field(default_factory=LoRA)  # train an adapter instead of the weights

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ValueError(f"learner.ranks must be >= 1, got {self.ranks}")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"learner.zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}")
        if self.zero_stage == 0 and self.training.precision == "bfloat16":
            raise ValueError(
                "learner.zero_stage must be >= 1 with learner.training.precision=bfloat16, got 0: DeepSpeed's stage 0 "
                "accumulates gradients in bfloat16. Fix: learner.zero_stage=1, or learner.training.precision=float32."
            )
        self.lora.check(self.head)
        if self.config is not None:
            from rlhf_flow.learner.deepspeed_config import read_user_config

            read_user_config(self.config)

    @property
    def can_average(self) -> bool:
        return self.lora.rank == 0

    @property
    def broadcasts(self) -> bool:
        """Adapters are small, and engines of policies only receive weights."""
        return self.lora.rank == 0 and not self.head.outputs

    def fingerprint(self) -> str:
        return "" if self.config is None else hashlib.sha256(Path(self.config).read_bytes()).hexdigest()

    def check(self) -> None:
        require("deepspeed", part="learner=deepspeed", instead="learner=torch")
        self.lora.check_installed()

    def open(self, model: Model, place: Place) -> Learner:
        from rlhf_flow.learner.backend_deepspeed import DeepSpeedBackend, join
        from rlhf_flow.learner.deepspeed_config import engine_config
        from rlhf_flow.learner.preference_learner import PreferenceLearner
        from rlhf_flow.learner.setup import be_deterministic, open_model

        be_deterministic(place.with_threads(self.training.threads))
        join(place)
        config = engine_config(
            self.training, ranks=place.size, zero_stage=self.zero_stage, path=self.config, device=place.device
        )
        opened, reading, trained = open_model(model, self.training, self.head, self.lora)
        backend = DeepSpeedBackend(opened, self.training, config, place)
        return PreferenceLearner(model, self.training, backend, reading, trained, bucket=place.bucket)
