"""Every architecture is learned, published and drawn from alike: greedy answers are those of plain transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from families.learned import by_huggingface, learn
from families.models import FAMILIES

from tests.runs.checkpoints.conftest import Made

pytestmark = pytest.mark.slow

STATES = ("mamba", "lfm2", "qwen3-next")  # refused: tests/config/test_architectures.py
FEW = ("llama-tied", "gpt2", "mixtral", "gemma2", "bloom", "gpt-neox")  # of each kind one; make soak: all
NATS = 1e-3


def each(families: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=[] if name in FEW else pytest.mark.soak) for name in families]


@pytest.mark.parametrize("family", each(name for name in FAMILIES if name not in STATES))
def test_an_engine_answers_as_the_published_policy_and_a_second_run_starts_from_it(
    made: Made, family: str, tmp_path: Path
) -> None:
    assert by_huggingface(learn(made(family), tmp_path)) < NATS


@pytest.mark.parametrize("family", each(["llama-tied", "mixtral", "gemma2", "gpt-neox", "falcon", "bloom", "cohere"]))
def test_an_engine_answers_as_a_published_adapter(made: Made, family: str, tmp_path: Path) -> None:
    assert by_huggingface(learn(made(family), tmp_path, rank=4)) < NATS
