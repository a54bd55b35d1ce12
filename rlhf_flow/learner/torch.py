"""The learner with PyTorch only, in one process."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import Learner
from rlhf_flow.specs import Model, Place


@dataclass(frozen=True)
class Torch:
    """Training in one process. With precision=bfloat16 the weights stay float32, and the forward pass uses autocast."""

    ranks: int = 1  # must be 1
    training: Training = field(default_factory=Training)
    head: Head = field(default_factory=Head)  # of a reward model
    lora: LoRA = field(default_factory=LoRA)  # train an adapter instead of the weights

    def __post_init__(self) -> None:
        if self.ranks != 1:
            raise ValueError(f"learner.ranks must be 1 with learner=torch, got {self.ranks}. Fix: learner=deepspeed.")
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

    def open(self, model: Model, place: Place) -> Learner:
        from rlhf_flow.learner.backend_torch import TorchBackend
        from rlhf_flow.learner.preference_learner import PreferenceLearner
        from rlhf_flow.learner.setup import be_deterministic, open_model

        be_deterministic(place.with_threads(self.training.threads))
        opened, reading, trained = open_model(model, self.training, self.head, self.lora)
        backend = TorchBackend(opened, self.training, device=place.device)
        return PreferenceLearner(model, self.training, backend, reading, trained, bucket=place.bucket)
