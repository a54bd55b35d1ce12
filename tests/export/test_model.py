"""The policy of a run as a checkpoint that transformers loads, with its card."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_flow.cli.main import main
from rlhf_flow.export.model import write_model


@pytest.fixture(scope="module")
def exported(old_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    write_model(f"{old_run}@last", out=folder)
    return folder


def test_the_policy_is_rounded_to_bfloat16_and_loads(exported: Path, old_run: Path) -> None:
    kept = old_run / "rounds/00002/policy"
    before = AutoModelForCausalLM.from_pretrained(kept).state_dict()
    after = AutoModelForCausalLM.from_pretrained(exported, dtype="auto").state_dict()
    assert after.keys() == before.keys()
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name].to(torch.bfloat16)), name
    chat = [{"role": "user", "content": "Hi"}]
    texts = [
        AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, tokenize=False) for folder in (kept, exported)
    ]
    assert texts[0] == texts[1]


def test_the_card_has_data_algorithm_judge_results_limits_and_citation_and_no_local_path(
    exported: Path, old_run: Path
) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["tags"]) == ("transformers", ["rlhf_flow", "online_dpo"])
    for told in (
        "| prompts | prompts.jsonl",
        "| training judge | reward_model: judge |",
        "| evaluation judge | rule: rlhf_flow.sandbox.gold.worth |",
        "The algorithm is `online_dpo`. Online DPO: the policy answers each prompt twice, a scorer compares",
        "arXiv:2402.04792",
        "| win rate against the starting model (0.5: no better, no worse) | 0.500 [",
        "- The interval of the win rate, [0.500, 0.500], holds 0.5: no gain is shown.",
        "- An alarm in round 2: 62.5% of the answers are cut at the token limit.",
    ):
        assert told in card
    assert re.search("\\| [▁▂▃▄▅▆▇█]{3} \\|", card)
    for path in exported.iterdir():
        assert str(old_run.parent).encode() not in path.read_bytes(), path.name


def test_it_prints_the_command_that_serves_the_model(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "model", f"{old_run}@2", "--out", str(tmp_path / "m"), "--dtype", "float32"]) == 0
    command = shlex.split(capsys.readouterr().out.rpartition("serve it: ")[2])
    assert command[:3] == ["vllm", "serve", str(tmp_path / "m")]
    assert (tmp_path / "m/chat_template.jinja").samefile(command[command.index("--chat-template") + 1])


def test_a_dry_run_lists_what_would_go_and_sends_nothing(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    push = ["--push", "me/pairs", "--private", "--dry-run"]
    assert main(["export", "pairs", str(old_run), "--out", str(tmp_path / "p.jsonl"), *push]) == 0
    said = capsys.readouterr().out
    assert "this would go to the private dataset repository me/pairs" in said
    assert [line.split()[-1] for line in said.splitlines()[-2:]] == ["README.md", "data/p.jsonl"]


def test_push_after_a_dry_run_commits_every_file_of_the_same_folder(
    old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub = RecordingHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: hub)
    out = tmp_path / "m"
    asked = ["export", "model", f"{old_run}@last", "--out", str(out), "--push", "me/model"]
    assert main([*asked, "--dry-run"]) == 0
    said = capfd.readouterr()
    assert said.err == ""  # progress bars and warnings of libraries
    assert [line.split(":")[0] for line in said.out.splitlines()[:3]] == [str(out), "serve it", "dry run"]
    assert [*tmp_path.iterdir()] == [out]  # no log without a failure
    assert not hub.files

    (out / "README.md").write_text((out / "README.md").read_text() + "\nEdited.\n")
    assert main(asked) == 0
    assert "as it was exported before" in capfd.readouterr().out
    assert hub.created == ("me/model", "model", False)
    assert set(hub.files) == {path.name for path in out.iterdir()} >= {"README.md", "model.safetensors"}
    card = hub.files["README.md"].decode()
    assert 'AutoModelForCausalLM.from_pretrained("me/model", dtype' in card
    assert "FOLDER" not in card
    assert card.endswith("Edited.\n")

    assert main(["export", "model", f"{old_run}@last", "--out", str(out), "--dtype", "float32"]) == 2
    assert f"{out} is not empty: it holds online_dpo@2 in bfloat16" in capfd.readouterr().err


def test_a_hub_that_is_not_reached_is_one_sentence(
    old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.setattr(huggingface_hub.constants, name, {"ENDPOINT": "http://127.0.0.1:1"}.get(name, False))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert main(["export", "pairs", str(old_run), "--out", str(tmp_path / "p.jsonl"), "--push", "me/pairs"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rlhf-flow: --push=me/pairs: uploading failed: ")
    assert said.endswith(". Fix: check the network.\n")
    assert said.count("\n") == 1


class RecordingHub:
    """`HfApi`, without a network."""

    def __init__(self) -> None:
        self.created: tuple[str, str, bool] | None = None
        self.files: dict[str, Any] = {}

    def create_repo(self, repo: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.created = (repo, repo_type, private)

    def create_commit(self, repo: str, operations: list[Any], **_: object) -> SimpleNamespace:
        self.files = {one.path_in_repo: one.path_or_fileobj for one in operations}
        return SimpleNamespace(commit_url=f"https://hub/{repo}")


def test_a_reward_model_is_no_policy(old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "reward"
    shutil.copytree(old_run, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("by: answers", "by: agreement"))
    assert main(["export", "model", f"{run}@2"]) == 2
    assert "trains a reward model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model", "{run}@1"], "the run has no such policy on disk"),  # checkpoint.keep=1
        (["model", "nowhere"], "nowhere holds no run"),
        (["model", "{run}", "--push", "mine"], "a repository is owner/name"),
        (["model", "{run}@last", "--out", "{run}"], "is not empty"),
        (["pairs", "{run}", "--dry-run"], "are about --push"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_fix(
    arguments: list[str], told: str, old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *(word.format(run=old_run) for word in arguments)]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Fix: " in said
