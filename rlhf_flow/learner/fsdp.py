"""The learner with PyTorch's FSDP2, one process per rank."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.learner.spec import TrainingSpec
from rlhf_flow.protocols import Learner
from rlhf_flow.specs import Model, Place


@dataclass(frozen=True)
class FSDP(TrainingSpec):
    """Data-parallel training with weights, gradients and moments sharded. Zhao et al. 2023, arXiv:2304.11277."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora.quantize:
            raise ValueError(
                "learner.lora.quantize must be null with learner=fsdp, which cannot shard 4-bit weights. Fix: "
                "learner=deepspeed with learner.zero_stage=2."
            )

    def open(self, model: Model, place: Place) -> Learner:
        from rlhf_flow.learner.backend_fsdp import FSDPBackend
        from rlhf_flow.learner.preference_learner import PreferenceLearner
        from rlhf_flow.learner.ranks import join
        from rlhf_flow.learner.setup import be_deterministic, open_model

        self.lora.check_device(place.device)
        training = self.training.on(place.device)
        be_deterministic(place.with_threads(self.training.threads))
        join(place)
        opened, reading, trained = open_model(
            model,
            training,
            self.head,
            self.lora,
            sharded=True,
            sequence_ranks=self.sequence_ranks,
            compile=self.compile,
        )
        backend = FSDPBackend(opened, training, place, self.sequence_ranks)
        return PreferenceLearner(model, training, backend, reading, trained, bucket=place.bucket)
