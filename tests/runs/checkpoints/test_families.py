"""Every architecture is learned, published and drawn from alike: greedy answers are those of plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from families.learned import by_huggingface, learn
from families.models import FAMILIES

from tests.runs.checkpoints.conftest import Made

STATES = ("mamba", "lfm2", "qwen3-next")  # refused: tests/config/test_architectures.py
WITHOUT_LINEAR = ("gpt2",)
NATS = 1e-3


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in STATES])
def test_an_engine_answers_as_the_published_policy_and_a_second_run_starts_from_it(
    made: Made, family: str, tmp_path: Path
) -> None:
    assert by_huggingface(learn(made(family), tmp_path)) < NATS


@pytest.mark.parametrize("family", ["llama-tied", "mixtral", "gemma2", "gpt-neox", "falcon", "bloom", "cohere"])
def test_an_engine_answers_as_a_published_adapter(made: Made, family: str, tmp_path: Path) -> None:
    assert by_huggingface(learn(made(family), tmp_path, rank=4)) < NATS
