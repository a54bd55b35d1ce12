"""A run of two rounds of the tiny policy, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.cli import main
from tests.support import tiny


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run. Each test writes what it evaluates elsewhere."""
    folder = tmp_path_factory.mktemp("evaluated")
    model, prompts = tiny.policy(folder / "model"), tiny.prompts(folder / "prompts.jsonl")
    assert main.main(["run", *tiny.overrides(model, prompts, folder / "run", rounds=2)]) == main.DONE
    return folder / "run"
