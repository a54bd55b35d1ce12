"""Files and folders that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.system.files import new_folder


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "models/mine"
    unfinished = target.with_name(f".{target.name}")  # of a killed process
    unfinished.mkdir(parents=True)
    (unfinished / "old").write_text("half")
    with new_folder(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["config.json"]
    assert [path.name for path in target.parent.iterdir()] == ["mine"]


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "mine"):
        raise RuntimeError("the disk is full")
    assert not list(tmp_path.iterdir())


def test_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"is not empty\. Fix: name a folder"), new_folder(tmp_path):
        pass
    assert (tmp_path / "notes.txt").read_text() == "keep me"
