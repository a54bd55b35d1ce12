"""`rlhf-flow ls` and `rlhf-flow new`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.config.schema import GROUPS, parts

pytestmark = pytest.mark.slow


def test_every_kind_and_name_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    kinds = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert {"algorithm", "experiment", "stack", *GROUPS} <= set(kinds)
    for kind in kinds:
        assert main(["ls", f"{kind}s"]) == 0
        lines = capsys.readouterr().out.splitlines()
        names = [line.split()[0] for line in lines]
        assert set(parts(kind) if kind in GROUPS else ()) <= set(names)
        assert all(len(line.split()) > 2 and len(line) <= 120 for line in lines)
        assert len(names) == len(set(names)) > 0


def test_several_kinds_and_files_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\n# Mine, of course. And more.\nrounds: 2\n")
    assert main(["ls", "algorithm", "experiments", "--config-dir", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert "online_dpo " in page
    assert "\nmine                    Mine, of course.\n" in page
    lines = page.splitlines()
    assert lines[0].startswith("algorithm: ")
    heading = next(at for at, line in enumerate(lines) if line.startswith("experiment: "))
    assert (lines[heading - 1], lines[heading + 1]) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ls", "colours"], "ls colours: there is no such kind. Fix: one of algorithm, experiment, "),
        (["ls", "--all"], "unrecognized arguments: --all. Try rlhf-flow ls --help."),
        (["new", "my-lab"], "new takes the name of a Python package. Fix: rlhf-flow new my_lab."),
        (["new", "class"], "new takes the name of a Python package"),
        *(
            (
                ["new", name],
                f"Python has a module of this name, which the folder would hide. Fix: rlhf-flow new {name}_",
            )
            for name in ("json", "sys", "torch", "rlhf_flow")
        ),
        (["new", "lab", "more"], "new takes the name of a Python package"),
    ],
)
def test_a_mistake_is_one_paragraph(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr().err
    assert told in captured
    assert captured.count("\n") == 1


def test_a_new_lab_passes_its_test_and_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "their_lab"]) == 0
    told = capsys.readouterr().out
    for command in ("python -m pytest their_lab", "rlhf-flow run --config-dir their_lab/conf experiment=their_lab"):
        assert command in told
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "their_lab"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    (tmp_path / "their_lab/rewards.py").write_text("mine")
    assert main(["new", "their_lab"]) == 2
    assert "Fix: rlhf-flow new another_name." in capsys.readouterr().err
    assert (tmp_path / "their_lab/rewards.py").read_text() == "mine"
