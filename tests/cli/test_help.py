"""The pages of help: what matters first, the whole of it, one part; and each key with its meaning."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from rlhf_flow.cli import help as manual
from rlhf_flow.cli.main import main
from rlhf_flow.cli.meanings import meanings, values
from rlhf_flow.config.compose import parts
from rlhf_flow.config.schema import GROUPS, RunConfig

KINDS = {part for group in GROUPS for part in parts(group).values()}
INSIDE = {inner for group in GROUPS for part in parts(group).values() for inner in manual._sections("", part).values()}
ALL = sorted(KINDS | INSIDE | set(manual._sections("", RunConfig).values()), key=lambda part: part.__name__)


def test_the_first_page_is_short_and_tells_what_matters() -> None:
    page = manual.page("run", ["--help"])
    lines = page.splitlines()
    assert len(lines) < 60
    assert lines.index("Keys that matter first") < 6
    assert len(manual.MATTERS) == 10
    for key in manual.MATTERS:
        (line,) = [line for line in page.splitlines() if line.startswith(f"  {key}=")]
        assert manual.meaning_of(key)
        assert "--help=all" in page
        assert manual.meaning_of(key).split()[0] in page.partition(line)[2] + line


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.__name__)
def test_every_key_has_a_meaning(part: type) -> None:
    known = meanings(part)
    assert [field.name for field in fields(part) if field.name not in known and manual._inside(field) is None] == []


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.__name__)
def test_the_values_that_a_meaning_begins_with_include_the_default(part: type) -> None:
    """Completion offers them."""
    for field in fields(part):
        if listed := values(part, field.name):
            assert ("null" if field.default is None else field.default) in listed, field.name


@pytest.mark.parametrize(
    "asked",
    [
        ["--help"],
        ["--help=all"],
        ["scorer=rule", "--help"],
        ["scorer", "--help"],
        ["algorithm", "-h"],
        ["sampler=policy", "--help"],
        ["learner=deepspeed", "--help"],
    ],
)
def test_no_page_is_cut_or_wide(asked: list[str]) -> None:
    page = manual.page("run", asked)
    assert page
    assert not any(len(line) > 120 for line in page.splitlines())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("scorer=rule", ["scorer.function=...", "module.function", "higher is better"]),
        ("scorer@evaluate.scorer=rule", ["scorer.function=..."]),
        ("selector=best_and_worst", ["selector.label=hard", "hard | soft | sampled"]),
        ("sampler=policy", ["sampler.draws.0.temperature=1.0"]),
        ("learner.training", ["learner.training.epochs=1", "passes over a round's pairs", "optimizer.lr"]),
        ("answers", ["answers.stop=null", "texts that end an answer"]),
        ("evaluate", ["evaluate.every=1", "evaluate.draw.max_tokens"]),
        ("scorer", ["reward_model", "judge"]),
        ("experiment", ["sandbox", "selm/zephyr_7b", "Zhang et al. 2024."]),
        ("experiment=selm/zephyr_7b", ["# source: https://arxiv.org/abs/2405.19332", "beta: 0.01"]),
        ("algorithm", ["online_dpo", "Guo et al. 2024"]),
        ("algorithm=dno_prct", ["temperature: 0.7"]),
        ("stack", ["local", "gpu"]),
    ],
)
def test_the_page_of_one_part(asked: str, told: list[str]) -> None:
    page = manual.page("run", [asked, "--help"])
    assert not page.startswith("rlhf-flow run")
    assert [one for one in told if one not in page] == []


def test_a_value_beside_a_question_for_help_changes_nothing() -> None:
    assert manual.page("run", ["rounds=3", "model.path=x", "--help"]) == manual.page("run", ["--help"])


def test_a_class_without_source_has_no_meanings() -> None:
    assert meanings(type("Typed", (), {})) == {}


def test_a_part_of_a_config_dir_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "mine.yaml").write_text("# Twice as good.\n_target_: my_lab.Mine\n")
    assert "Twice as good." in manual.page("run", ["--config-dir", str(tmp_path), "objective=mine", "--help"])


@pytest.mark.parametrize(
    ("command", "head"),
    [("serve", "rlhf-flow serve"), ("sft", "rlhf-flow sft"), ("train-reward", ""), ("plan", ""), ("doctor", "")],
)
def test_every_command_with_keys_has_a_short_page_and_a_whole_one(command: str, head: str) -> None:
    short, whole = manual.page(command, ["--help"]), manual.page(command, ["--help=all"])
    assert short.startswith(head or f"rlhf-flow {command}")
    assert whole.startswith(short.splitlines()[0])
    assert len(short.splitlines()) < 60
    assert "scorer.function=" in whole
    assert "scorer.function=" not in short
    assert manual.page(command, ["scorer=rule", "--help"]).startswith("scorer=rule:")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "objective=dop", "--help"], "objective=dop is not a known objective. Did you mean objective=dpo?"),
        (["run", "seed=1", "algorithm=nothing", "-h"], "algorithm=nothing is not a known algorithm. "),
        (["run", "learner.trainin", "--help"], "section of keys has this name. Did you mean learner.training?"),
        (["serve", "nothing", "--help"], "nothing: no group and no section of keys has this name."),
        (["run", "--help=more"], "--help=more: there is no such page. Fix: --help or --help=all."),
        (["report", "--help=more"], "--help=more: there is no such page."),
        (["run", "--config-dir", "nowhere", "--help"], "--config-dir nowhere: there is no such folder"),
        (["ls", "algorithm", "--config-dir", "nowhere"], "argument --config-dir/-cd: invalid folder value: 'nowhere'"),
        (["compare", "--config-dir", "nowhere"], "argument --config-dir/-cd: invalid folder value: 'nowhere'"),
        (["completion", "tcsh"], "completion tcsh: there is no such script. Fix: one of bash, zsh, fish."),
        (["plan", "--gpus", "x"], "argument --gpus: invalid int value: 'x'. Try rlhf-flow plan --help."),
        (["doctor", "--gpus", "x"], "argument --gpus: invalid int value: 'x'. Try rlhf-flow doctor --help."),
        (["verify", "--seed", "x"], "argument --seed: invalid int value: 'x'. Try rlhf-flow verify --help."),
        (["sandbox", "--more"], "unrecognized arguments: --more. Try rlhf-flow sandbox --help."),
        (["run", "--cfg", "x"], "argument --cfg/-c: invalid choice: 'x' (choose from "),
        (["sft", "--config-dir"], "argument --config-dir/-cd: expected one argument. Try rlhf-flow sft --help."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_beside_a_question_for_help_or_in_an_option_is_one_paragraph(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("asked", [["mine.yaml"], ["algorithm=xpo,online_dpo", "--multirun"], ["experiment=null"]])
def test_files_sweeps_and_no_part_are_no_mistakes(asked: list[str]) -> None:
    assert manual.page("run", [*asked, "--help"])


def test_h_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-h=all"]) == 0
    assert "scorer.function=" in capsys.readouterr().out
