"""The model card of a published policy says what it is made of, and nothing of the machine that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import rlhf_flow
from rlhf_flow.cli.main import main
from rlhf_flow.report.card import model_card
from rlhf_flow.report.run_folder import read
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of two rounds from the command line leaves."""
    folder = tmp_path_factory.mktemp("card")
    assert main(["run", *_keys(folder, "run")]) == 0
    return folder


def _keys(folder: Path, run: str) -> list[str]:
    model, asked = folder / "my-model", folder / "questions.jsonl"
    if not model.exists():
        tiny.policy(model)
        tiny.prompts(asked)
    return tiny.overrides(model, asked, folder / run, rounds=2, algorithm="online_ipo")


def test_a_run_leaves_a_card_that_names_no_folder_of_the_machine(folder: Path) -> None:
    cards = [(folder / f"run/rounds/0000{round}/policy/README.md").read_text() for round in (1, 2)]
    for said in (
        "my-model",
        "questions.jsonl (20 for training)",
        "tests.support.tiny.shorter",
        "| seed | 0 |",
        "online_ipo",
    ):
        assert all(said in card for card in cards), said
    assert not any(str(folder) in card for card in cards)
    assert "No evaluation of this model was known" in cards[0]
    assert "| metric | starting model | round 1 |" in cards[1]
    assert "No evaluation of round 2 was known" in cards[1]
    assert "The judge of the results is the one that training optimised" in cards[1]


def test_the_code_of_a_card_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = folder / "run/rounds/00002/policy"
    card = (policy / "README.md").read_text()
    exec(card.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(policy)), {})
    assert "Hello!" in capsys.readouterr().out


def test_a_run_from_python_records_the_same_choices(folder: Path) -> None:
    prepared = rlhf_flow.run("online_ipo", stack=None, keys=_keys(folder, "python")).prepare()
    prepared.ledger.close()
    typed, called = (
        json.loads((folder / run / "manifest.json").read_text())["starts"][0]["choices"] for run in ("run", "python")
    )
    assert called == typed
    assert (typed["algorithm"], typed["scorer"]) == ("online_ipo", "rule")


@pytest.mark.parametrize(
    ("path", "resolved", "base"),
    [
        ("owner/name", "/cache/models--owner--name/snapshots/0123", "owner/name"),
        ("gpt2", "/cache/models--gpt2/snapshots/0123", "gpt2"),
        ("models/name", "/home/models/name", None),
        ("name", "/home/name", None),
        ("/srv/models/name", "/srv/models/name", None),
    ],
)
def test_a_card_links_to_its_base_on_the_hub_alone(path: str, resolved: str, base: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"model: {{path: {path}, dtype: float32}}\nlearner: {{lora: {{rank: 4}}}}\n")
    (tmp_path / "manifest.json").write_text(json.dumps({"starts": [{"model": resolved}]}))
    own, merged = (model_card(read(tmp_path), 3, dtype=dtype) for dtype in (None, "bfloat16"))
    for card, kind, library in ((own, "adapter", "peft"), (merged, "finetune", "transformers")):
        front = yaml.safe_load(card.split("---\n")[1])
        assert (front.get("base_model"), front["library_name"]) == (base, library)
        assert front.get("base_model_relation") == (kind if base else None)
        assert "round 3" in card
        assert f"[{path}](https://huggingface.co/{path})" in card or base is None
        assert "/srv" not in card and "/home" not in card


def test_a_card_names_the_data_sets_of_a_mixture_that_are_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: {path: gpt2, dtype: float32}\n"
        "prompts: {sources: [{path: owner/chats, split: train}, {path: own.jsonl}, {path: owner/code, split: test}]}\n"
    )
    card = model_card(read(tmp_path), 1)
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["owner/chats", "owner/code"]
    assert "[owner/code](https://huggingface.co/datasets/owner/code)" in card


def test_relative_paths_are_shortened_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: {path: ../jane/base, dtype: float32}\n"
        "scorer: {_target_: rlhf_flow.scorer.models.reward_model.RewardModel, path: ../jane/judge}\n"
        "prompts: {sources: [{path: secret/one.jsonl}, {path: ../jane/two.jsonl}]}\n"
    )
    card = model_card(read(tmp_path), 1)
    assert "| starting model | `base` (a local checkpoint) |" in card
    assert "| training judge | reward_model: …/judge |" in card
    assert "| prompts | one.jsonl, two.jsonl |" in card
    assert "jane" not in card and "secret" not in card
