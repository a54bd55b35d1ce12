"""The learner with DeepSpeed, one process per rank."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.learner.deepspeed_config import check_precision, engine_config, read_user_config
from rlhf_flow.learner.spec import TrainingSpec
from rlhf_flow.protocols import Learner
from rlhf_flow.specs import Model, Place
from rlhf_flow.system.optional_deps import require


@dataclass(frozen=True)
class DeepSpeed(TrainingSpec):
    """Data-parallel training with ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054)."""

    zero_stage: int = 2  # 0: no sharding; 1: moments; 2: also gradients; 3: also weights
    config: str | None = None  # a DeepSpeed JSON, for settings without a key here

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"learner.zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}")
        if self.training.precision is not None:
            check_precision(self.training, self.zero_stage)
        if self.zero_stage == 3 and self.lora.quantize:
            raise ValueError(
                "learner.lora.quantize must be null with learner.zero_stage=3, which cannot shard 4-bit weights. Fix: "
                "learner.zero_stage=2."
            )
        if self.zero_stage == 3 and self.compile:
            raise ValueError(
                "learner.compile must be false with learner.zero_stage=3: it gathers weights in hooks that "
                "break a compiled layer. Fix: learner=fsdp, which shards as much."
            )
        if self.config is not None:
            read_user_config(self.config)

    def fingerprint(self) -> str:
        return "" if self.config is None else hashlib.sha256(Path(self.config).read_bytes()).hexdigest()

    def check(self) -> None:
        require("deepspeed", part="learner=deepspeed", instead="learner=torch")
        super().check()

    def open(self, model: Model, place: Place) -> Learner:
        from rlhf_flow.learner.backend_deepspeed import DeepSpeedBackend, settle
        from rlhf_flow.learner.preference_learner import PreferenceLearner
        from rlhf_flow.learner.setup import be_deterministic, open_model

        self.lora.check_device(place.device)
        training = self.training.on(place.device)
        be_deterministic(place.with_threads(self.training.threads))
        settle(place)
        config = engine_config(
            training, ranks=place.size, zero_stage=self.zero_stage, path=self.config, device=place.device
        )
        opened, reading, trained = open_model(
            model,
            training,
            self.head,
            self.lora,
            sharded=self.zero_stage == 3,
            sequence_ranks=self.sequence_ranks,
            compile=self.compile,
        )
        backend = DeepSpeedBackend(opened, training, config, place, self.sequence_ranks)
        return PreferenceLearner(model, training, backend, reading, trained, bucket=place.bucket)
