"""Which tokens end an answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from rlhf_flow.engine.asking import end_tokens
from rlhf_flow.specs import Model

if TYPE_CHECKING:
    from tests.engine.conftest import World


@pytest.fixture
def checkpoint(world: World, tmp_path: Path) -> Path:
    return shutil.copytree(world.folder, tmp_path / "model")


def ends(checkpoint: Path) -> list[int]:
    return end_tokens(Model(str(checkpoint)), AutoTokenizer.from_pretrained(checkpoint))


def test_eos_and_the_ends_that_the_generation_config_names(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "generation_config.json").read_text())
    (checkpoint / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [1, 7], "top_k": 3}))
    assert ends(checkpoint) == [1, 7]


def test_without_a_generation_config_the_tokenizer_decides(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    assert ends(checkpoint) == [1]


def test_a_checkpoint_whose_answers_never_end_is_refused(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names an end token"):
        end_tokens(Model(str(checkpoint)), tokenizer)
