"""Characters in a path that Hydra reads as its own: the advice is a command that works."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlhf_flow.cli.main import main
from rlhf_flow.config.mistakes import _in_quotes
from rlhf_flow.config.overrides import from_mapping
from tests.support import tiny


@pytest.mark.parametrize(
    "name", ["a=b", "a,b", "a(b", "a)b", "it's", 'a"b', "a b", "a [b]", "{a}", "a:b", "'\"=,", "a\\b"]
)
def test_what_is_advised_reads_as_the_path_that_was_typed(name: str) -> None:
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


@pytest.mark.parametrize(
    "text",
    [
        *("jsonl", "/tmp/a-b/c.jsonl", "my_lab.rewards.f", "./x", "null", "True", "nan", "Inf", "1e5", "-3", "", " a"),
        *("a:b", "a,b", "it's", "${oc.env:A}", "a=b", "x y", "é", "[a]", "no", "off"),
    ],
)
def test_a_text_of_a_mapping_is_read_as_itself(text: str) -> None:
    (override,) = from_mapping({"key": text})
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert parsed.value() == text


def test_plain_texts_are_written_without_quotes() -> None:
    assert from_mapping({"prompts@given.prompts": "jsonl", "a": {"path": "/b/c.jsonl"}}) == [
        "prompts@given.prompts=jsonl",
        "a.path=/b/c.jsonl",
    ]
