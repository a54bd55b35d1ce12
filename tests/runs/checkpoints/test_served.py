"""vLLM answers as the learner's policy: opened on the start, given the policy, and opened on what was published."""

from __future__ import annotations

from collections.abc import Mapping

import checkpoints
import pytest
from families.learned import learn

from tests.runs.checkpoints.conftest import Made

# Of each kind one: tied; own names for queries; Conv1D; experts; a head that takes no weights; by vLLM's backend of
# transformers. All families: make matrix.
FAMILIES = ("llama-tied", "qwen3", "gpt2", "mixtral", "bloom", "gpt-neox")
ADAPTED = ("mistral",)  # of FAMILIES none, so that one process serves all
NATS = 1e-3

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def found(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, float | str]]:
    folder = tmp_path_factory.mktemp("served")
    learned = {name: learn(made(name), folder / name) for name in FAMILIES}
    learned |= {f"{name}, adapted": learn(made(name), folder / f"{name}-4", rank=4) for name in ADAPTED}
    return checkpoints.serve(learned, folder)


@pytest.mark.parametrize("family", [*FAMILIES, *(f"{name}, adapted" for name in ADAPTED)])
def test_vllm_answers_as_transformers(found: Mapping[str, Mapping[str, float | str]], family: str) -> None:
    assert "error" not in found[family], found[family]
    assert all(float(nats) < NATS for nats in found[family].values()), found[family]
    assert len(found[family]) >= 3
