"""Learners: train the policy, or a reward model, on preference pairs."""

from __future__ import annotations

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.torch import Torch

PARTS: dict[str, type] = {"torch": Torch, "deepspeed": DeepSpeed, "fsdp": FSDP}
