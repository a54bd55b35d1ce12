"""vLLM answers as the learner's policy: opened on the start, given the policy, and opened on what was published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import checkpoints
import pytest
from families.learned import learn

from tests.runs.checkpoints.conftest import Made

# Of each kind one: tied; own names for queries; Conv1D; experts; a head that takes no weights; by vLLM's backend of
# transformers. All families: make matrix.
FAMILIES = ("qwen3", "gpt2", "bloom", "gpt-neox")
FEW = ("llama-tied", "mixtral")
ADAPTED = ("mistral",)  # in a process of its own; tests/engine/test_lora.py shows vLLM's adapters in short
NATS = 1e-3

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("families", "adapted"), [(FEW, ()), pytest.param(FAMILIES, ADAPTED, marks=pytest.mark.soak)], ids=["few", "others"]
)
def test_vllm_answers_as_transformers(
    families: Sequence[str], adapted: Sequence[str], made: Made, tmp_path: Path
) -> None:
    learned = {name: learn(made(name), tmp_path / name) for name in families}
    learned |= {f"{name}, adapted": learn(made(name), tmp_path / f"{name}-4", rank=4) for name in adapted}
    for family, differences in checkpoints.serve(learned, tmp_path).items():
        assert "error" not in differences, (family, differences)
        assert all(float(nats) < NATS for nats in differences.values()), (family, differences)
        assert len(differences) >= 3
