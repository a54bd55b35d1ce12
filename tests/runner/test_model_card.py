"""The model card of a published policy says what it is made of, and nothing of the machine that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf_flow.cli.main import main
from rlhf_flow.config.compose import compose
from rlhf_flow.runner.model_card import model_card
from tests.support import tiny

pytestmark = pytest.mark.slow


def test_a_run_leaves_a_card_that_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    model, asked = tiny.policy(tmp_path / "my-model"), tiny.prompts(tmp_path / "questions.jsonl")
    assert main(["run", *tiny.overrides(model, asked, tmp_path / "run", rounds=2)]) == 0
    cards = [(tmp_path / f"run/rounds/0000{round}/policy/README.md").read_text() for round in (1, 2)]
    for said in ("my-model", "questions.jsonl", "tests.support.tiny.shorter", "| seed | 0 |"):
        assert all(said in card for card in cards), said
    assert not any(str(tmp_path) in card for card in cards)
    assert "win rate" not in cards[0]  # no round was evaluated yet
    assert "win rate against the base model, round 1" in cards[1]


@pytest.mark.parametrize("path", ["owner/name", "/srv/models/name", "models/name/"])
def test_a_card_links_to_its_base_on_the_hub_alone(path: str) -> None:
    config = compose(f"model.path={path}", "prompts.path=x.jsonl", "scorer.path=judge")
    _, front, text = model_card(config, 3, {}).split("---\n", 2)
    assert yaml.safe_load(front).get("base_model") == ("owner/name" if path == "owner/name" else None)
    assert "Round 3" in text
    assert "/srv" not in text
