"""A published policy has the names, the shapes and the files that `save_pretrained` gives a model of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families.models import FAMILIES
from safetensors.torch import load_file

from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Model, Place
from tests.checkpoints.conftest import Made

BUCKETS = (1 << 30, 20_000)  # bytes: one file, several shards
STATE_SPACE = ("mamba", "lfm2", "qwen3-next")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def publish(folder: Path, into: Path, *, bucket: int = BUCKETS[0], dtype: str = "float32") -> dict[str, torch.Tensor]:
    """The tensors that a learner publishes of a checkpoint that it has learned nothing on."""
    learner = Torch().open(Model(str(folder), dtype=dtype), Place(bucket=bucket))
    learner.save_policy(into)
    return tensors(into)


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_that_learned_nothing_is_published_as_it_was_stored(
    made: Made, family: str, bucket: int, tmp_path: Path
) -> None:
    stored, published = tensors(made(family)), publish(made(family), tmp_path, bucket=bucket)
    assert published.keys() == stored.keys()
    assert all(torch.equal(published[name], tensor) for name, tensor in stored.items())
