"""The learner with PyTorch only, in one process."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.learner.spec import TrainingSpec
from rlhf_flow.protocols import Learner
from rlhf_flow.specs import Model, Place


@dataclass(frozen=True)
class Torch(TrainingSpec):
    """Training in one process. With precision=bfloat16 the weights stay float32, and the forward pass uses autocast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranks != 1:
            raise ValueError(f"learner.ranks must be 1 with learner=torch, got {self.ranks}. Fix: learner=deepspeed.")

    def open(self, model: Model, place: Place) -> Learner:
        from rlhf_flow.learner.backend_torch import TorchBackend
        from rlhf_flow.learner.preference_learner import PreferenceLearner
        from rlhf_flow.learner.setup import be_deterministic, open_model

        self.lora.check_device(place.device)
        training = self.training.on(place.device)
        be_deterministic(place.with_threads(self.training.threads))
        opened, reading, trained = open_model(model, training, self.head, self.lora, compile=self.compile)
        backend = TorchBackend(opened, training, device=place.device)
        return PreferenceLearner(model, training, backend, reading, trained, bucket=place.bucket)
