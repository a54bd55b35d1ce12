"""The weights that a learner holds are read and saved without a second copy of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rlhf_flow.learner import state
from rlhf_flow.learner.backend import Parameter, Part
from rlhf_flow.learner.held_weights import HeldWeights
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Place
from rlhf_flow.weights.buckets import Index
from tests.support.classroom import ADAMW, make_lesson, make_model, make_tables, policy_of


def held(dtype: torch.dtype) -> HeldWeights:
    """Weights of one parameter that the forward pass reads in bfloat16."""
    values, master = torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4)
    seen = Part(values, start=0, everywhere=True)
    parameter = Parameter("w", (4,), seen, Part(master, start=0, everywhere=True), master, offset=0)
    lm = SimpleNamespace(named_buffers=list)
    backend = SimpleNamespace(parameters=lambda: [parameter], lm=lm, reads=torch.bfloat16)
    return HeldWeights("models/start", backend, SimpleNamespace(), dtype, bucket=1, threads=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_policy_held_is_read_without_a_copy_if_rounding_changes_nothing(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = held(dtype)
    monkeypatch.setattr(Tensor, "clone", lambda tensor: pytest.fail("a copy of the weights"))
    with weights.reading():
        pass


@pytest.mark.slow
def test_a_state_is_saved_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model")
    start, tables = policy_of(model), make_tables(tmp_path / "round")
    learner = Torch(training=ADAMW).open(model, Place())
    learner.start(start)
    learner.update(make_lesson(tmp_path, [tables], learner, start), 0, 1)
    gathered, whole = [], learner.backend.whole
    monkeypatch.setattr(learner.backend, "whole", lambda *each, **to: gathered.append(each) or whole(*each, **to))

    def write(path: Path, index: Index, data: Iterable[Tensor]) -> str:
        for number, (entry, tensor) in enumerate(zip(index, data, strict=True), 1):
            assert tensor.shape == entry.shape
            assert len(gathered) == number, "a tensor was gathered before the one before was written"
        return "hash"

    monkeypatch.setattr(state, "write", write)
    learner.save_state(tmp_path / "state")
    assert len(gathered) > 10
