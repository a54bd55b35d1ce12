"""Characters in a path that Hydra reads as its own: the advice is a command that works."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from rlhf_flow.cli.errors import _in_quotes
from rlhf_flow.cli.main import main
from tests.support import tiny


@pytest.mark.parametrize(
    "name", ["a=b", "a,b", "a(b", "a)b", "it's", 'a"b', "a b", "a [b]", "{a}", "a:b", "'\"=,", "a\\b"]
)
def test_what_is_advised_reads_as_the_path_that_was_typed(name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (word,) = shlex.split(_in_quotes(f"model.path=/models/{name}").partition("shell: ")[2])
    assert OverridesParser.create().parse_override(word).value() == f"/models/{name}"


@pytest.mark.parametrize("name", ["lr=1e-6 (b), it's", "step,500"])
def test_a_run_from_a_folder_with_such_a_name_is_told_the_command_that_works(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.policy(tmp_path / "model")
    run = tiny.overrides(model, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run")
    folder = shutil.move(model, tmp_path / name)
    arguments = [*(one for one in run if not one.startswith("model.path=")), f"model.path={folder}"]
    assert main(["plan", *arguments]) == 2
    told = capsys.readouterr().err.strip()
    (word,) = shlex.split(told.partition("shell: ")[2])
    assert word.startswith("model.path=")
    assert main(["plan", *arguments[:-1], word]) == 0
