"""Wrong settings are refused by name before anything is loaded."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from rlhf_flow.learner import PARTS
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.torch import Torch
from rlhf_flow.learner.training import Training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "training.batch must be >= 1, got 0"),
        ({"micro_batch": 0}, "training.micro_batch must be >= 1"),
        ({"epochs": 0}, "training.epochs must be >= 1"),
        ({"chunk": 0}, "training.chunk must be >= 1"),
        ({"clip": -1.0}, "training.clip must be >= 0"),
        ({"precision": "float16"}, "training.precision must be float32 or bfloat16, or null, got 'float16'"),
        ({"optimizer_state": "keep"}, "training.optimizer_state must be carry or fresh"),
        ({"threads": 0}, "training.threads must be >= 1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**settings)  # type: ignore[arg-type]


def test_what_a_backend_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner.ranks must be 1 with learner=torch, got 2. Fix: learner=deepspeed"):
        Torch(ranks=2)
    with pytest.raises(ValueError, match=r"learner.ranks must be >= 1"):
        DeepSpeed(ranks=0)
    with pytest.raises(ValueError, match=r"learner.zero_stage must be 0, 1, 2 or 3, got 4"):
        DeepSpeed(zero_stage=4)
    with pytest.raises(ValueError, match=r"learner.zero_stage must be >= 1 with .*bfloat16"):
        DeepSpeed(zero_stage=0, training=Training(precision="bfloat16"))


@pytest.mark.parametrize("part", PARTS.values())
def test_parts_are_small_configurations_that_travel(part: type) -> None:
    spec = part()
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert OmegaConf.to_object(OmegaConf.structured(part)) == spec
    for kind in (part, Training, type(spec.training.optimizer), type(spec.training.schedule)):
        assert len(dataclasses.fields(kind)) <= 12


def test_a_configuration_is_composed_without_torch() -> None:
    heavy = ("torch", "transformers", "deepspeed")
    code = f"import sys, rlhf_flow.learner, rlhf_flow.objective; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
