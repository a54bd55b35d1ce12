"""A path that does not exist is refused by its form: the hub is not asked for it."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from rlhf_flow.capacity.estimate import plan
from rlhf_flow.capacity.fit import Room
from rlhf_flow.prompts.huggingface import HuggingFace
from rlhf_flow.runner.prepare import on_disk
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.specs import Model, Place
from rlhf_flow.system.hub import check_dataset, check_model
from tests.support.configured import configured
from tests.support.tokenizer import tokenizer

PATHS = ["./models/rm", "../rm", "/models/rm", "~/rm", "a/b/c", "gone/"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which `here` exists and nothing is in it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_does_not_exist_is_refused(path: str) -> None:
    for check in (check_model, check_dataset):
        with pytest.raises(ValueError) as raised:
            check("scorer.path", path)
        assert str(raised.value).startswith(f"scorer.path={path}: no such folder. Fix: name ")


def test_a_name_on_the_hub_and_a_folder_pass() -> None:
    """The hub may have an owner named like a folder that is here, and the oldest models and data sets have none."""
    for path in ("owner/name", "here/name", "gpt2", "distilbert-base-uncased", "here", "here/", "./here"):
        check_model("model.path", path)
        check_dataset("prompts.path", path)


def test_the_home_folder_is_written_out(folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"Fix: model\.path={folder}/here\.$"):
        check_model("model.path", "~/here")


def test_every_part_that_reads_a_model_or_a_data_set_checks_it() -> None:
    path = "./models/rm"
    for read in (
        lambda: on_disk(Model(path)),
        lambda: Model(path).tokenizer(),
        lambda: plan(configured(**{"model.path": path}), Room(gpus=0, gpu=0, host=1)),
        RewardModel(path).check,
        PreferenceModel(path).check,
        HuggingFace(path=path).rows,
    ):
        with pytest.raises(ValueError, match=r"path=\./models/rm: no such folder\. Fix: "):
            read()


def test_the_reason_of_a_library_ends_with_one_full_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for read in (
        lambda: on_disk(Model(path="owner/nothing")),
        lambda: RewardModel(path="owner/nothing").open(Place(device="cpu", threads=1)),
        lambda: HuggingFace(path="owner/nothing").open(tokenizer(), 0),
    ):
        with pytest.raises(ValueError, match=r"\w\S*[^.]\. Fix: ") as raised:
            read()
        assert ".. Fix" not in str(raised.value)
