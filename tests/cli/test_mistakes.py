"""What a user can get wrong: one paragraph, exit status 2, and no worker was started for it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.cluster.local import Local
from tests.support import tiny

pytestmark = pytest.mark.slow

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return tiny.prompts(tmp_path / "prompts.jsonl")


@pytest.fixture
def refused(
    model: Path,
    asked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Refused:
    """Ask for a run that cannot be; return the paragraph that says so."""

    def started(self: Local) -> None:
        pytest.fail("workers were started for a run that cannot be")

    monkeypatch.setattr(Local, "open", started)

    def ask(*more: str, **keys: object) -> str:
        capsys.readouterr()  # what a test's own set-up had to say
        made = tiny.overrides(model, asked, tmp_path / "run", **{key.replace("__", "."): keys[key] for key in keys})
        assert main(["run", *made, *more]) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("rlhf-flow: ")
        assert "Traceback" not in told
        assert "\n\n" not in told
        return told

    return ask


def test_values_and_keys(refused: Refused) -> None:
    assert "Did you mean objective.beta" in refused("objective.bata=0.2")
    assert "rounds=many: expected a whole number. Fix: rounds=1." in refused("rounds=many")
    assert "objective.beta must be > 0, got -1.0" in refused(objective__beta=-1.0)


def test_parts_that_do_not_fit(refused: Refused) -> None:
    assert "Fix: draw 2; or selector=best_and_worst" in refused("answers.n=8", selector="only_pair")
    assert "cluster=ray" in refused("learner.ranks=2", learner="deepspeed")


def test_a_file_of_prompts_that_is_not_there_or_empty(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere.jsonl" in refused(prompts__path=tmp_path / "nowhere.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "empty.jsonl" in refused(prompts__path=empty)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "x", "prompt": ', "prompts.jsonl, line 7"),
        ('{"id": "x", "question": "Why?"}', "prompt"),
        ('{"id": "x", "prompt": "  "}', "line 7"),
        ('{"id": "q1", "prompt": "Why?"}', "q1"),
    ],
    ids=["not JSON", "no such column", "an empty prompt", "an id twice"],
)
def test_a_row_that_is_no_prompt(refused: Refused, asked: Path, line: str, told: str) -> None:
    lines = asked.read_text().splitlines()
    lines[6] = line
    asked.write_text("\n".join(lines) + "\n")
    answer = refused("prompts.columns.id=id")
    assert told in answer
    assert "line 7" in answer


def test_a_model_that_is_no_checkpoint(refused: Refused, model: Path, tmp_path: Path) -> None:
    assert "nowhere: no such folder. Fix: name the folder of a" in refused(model__path=tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    assert "config.json" in refused(model__path=tmp_path / "folder")
    without = shutil.copytree(model, tmp_path / "without")
    for file in without.glob("*.safetensors"):
        file.unlink()
    assert "safetensors" in refused(model__path=without)


def test_a_tokenizer_of_another_model(refused: Refused, tmp_path: Path) -> None:
    told = refused(model__path=tiny.policy(tmp_path / "small", rows=100))
    assert "its tokenizer has 3" in told
    assert "the model only 100" in told


def test_prompts_that_leave_no_room_for_an_answer(refused: Refused) -> None:
    told = refused(**{"sampler.draws.0.max_tokens": 250})
    assert "prompts.too_long=cut" in told


def test_a_reward_model_that_is_a_language_model(refused: Refused, model: Path) -> None:
    assert "sequence-classification" in refused(f"scorer.path={model}", scorer="reward_model")


@pytest.mark.slow
def test_a_folder_of_another_run_and_files_that_were_damaged(
    model: Path,
    asked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tiny.overrides(model, asked, tmp_path / "run")
    assert main(["run", *made]) == 0
    capsys.readouterr()

    def told(*more: str, run_dir: Path = tmp_path / "run") -> str:
        assert main(["run", *made, *more, f"run_dir={run_dir}"]) == 2
        return capsys.readouterr().err

    assert "objective.beta was 0.1, now 0.5" in told("objective.beta=0.5")
    (tmp_path / "my_rule.py").write_text("def worth(prompt, answer, meta):\n    return len(answer)\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = ["scorer.function=my_rule.worth"]
    assert main(["run", *made, *mine, f"run_dir={tmp_path / 'mine'}"]) == 0
    (tmp_path / "my_rule.py").write_text("def worth(prompt, answer, meta):\n    return -len(answer)\n")
    assert "scorer.sha256 was" in told("rounds=2", *mine, run_dir=tmp_path / "mine")
    for number, name in enumerate(("responses/00000.parquet", "policy/model.safetensors")):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"copy-{number}")
        victim = copy / "rounds/00001" / name
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
        answer = told("rounds=2", run_dir=copy)
        assert Path(name).name in answer
        assert "does not match the hash" in answer


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_and_the_same_command_goes_on(
    model: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.overrides(model, asked, tmp_path / "run")
    flush, left = os.fsync, 20

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        assert main(["run", *made]) == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "Once the cause is removed, resume:" in told
    assert main(["run", *made]) == 0
    assert main(["run", *tiny.overrides(model, asked, tmp_path / "whole")]) == 0
    finals = [json.loads((tmp_path / name / "final.json").read_text())["sha256"] for name in ("run", "whole")]
    assert finals[0] == finals[1]
