"""What a newcomer types and reads in the first hour: keys with dashes, keys without their part, pipes, failures."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlhf_flow.cli.doctor import page
from rlhf_flow.cli.main import main
from rlhf_flow.doctor.checks import Diagnosis
from rlhf_flow.doctor.finding import problem, warning
from rlhf_flow.metrics.off_policy import GateError
from rlhf_flow.runner import prepare as build
from tests.cli.test_main import LOCAL, failing

pytestmark = pytest.mark.slow


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The paragraph that refuses the arguments."""
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, "one paragraph"
    return told


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr=1", "learner.training.optimizer.lr"),
        ("epochs=2", "learner.training.epochs"),
        ("beta=0.1", "objective.beta"),
        ("batch=8", "prompts.batch"),
        ("learner.lr=1", "learner.training.optimizer.lr"),
        ("micro_batchs=1", "learner.training.micro_batch"),
        ("warmup=0.1", "learner.training.schedule.warmup"),
    ],
)
def test_a_key_without_its_part_is_answered_with_the_whole_key(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "run", *LOCAL, given)
    assert "Did you mean" in told
    assert meant in told
    assert "alarms" not in told


@pytest.mark.parametrize("command", ["run", "plan", "doctor", "sft", "train-reward"])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--rounds=3"], "rounds=3"),
        (["--rounds", "3"], "rounds=3"),
        (["--model.path=some/model"], "model.path=some/model"),
        (["--run-dir=there"], "run_dir=there"),
        (["-seed=1"], "seed=1"),
    ],
)
def test_a_key_with_dashes_is_answered_with_the_key(
    command: str, typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, command, *typed)
    assert f"Fix: {meant}." in told


def test_an_option_that_is_none_is_a_mistake_in_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--no-such-option" in said(capsys, "run", "--no-such-option")


# -- pages ------------------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rlhf_flow", "run", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_findings_are_counted_and_their_way_out_is_said_once() -> None:
    findings = [problem("plan", "too large", "use less"), warning("disk", "full", "remove files")]
    *lines, last = page(Diagnosis(findings, []))
    assert lines[0].endswith("too large. Fix: use less")
    assert lines[1].endswith("full. Fix: remove files")
    assert last == "1 problem, 1 warning, 0 ok"


# -- failures ---------------------------------------------------------------------------------------------------------


def ended(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int = 1
) -> str:
    monkeypatch.setattr(build, "prepare", failing(error))
    assert main(["run", *LOCAL]) == status
    return capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), AssertionError(), KeyError(), TimeoutError()])
def test_a_failure_without_words_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"the run failed: {type(error).__name__}" in ended(error, monkeypatch, capsys)


@pytest.mark.parametrize("error", [IndexError("list index"), AttributeError("no 'q'"), RuntimeError("worker died")])
def test_a_failure_promises_no_more_than_is_known(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ended(error, monkeypatch, capsys)
    assert "Once the cause is removed, resume: " in told


def test_a_bound_that_stops_every_start_is_not_to_be_started_again_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ended(GateError("12 answers are too far. Raise off_policy.max_mismatch"), monkeypatch, capsys)
    assert "Raise off_policy.max_mismatch" in told
    assert "to resume" not in told


def test_a_failed_server_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_flow.cli import serve as command

    def fails(config: object) -> None:
        raise MemoryError

    monkeypatch.setattr(command, "serve", fails)
    assert main(["serve", "scorer=rule", "scorer.function=tests.support.tiny.shorter"]) == 1
    assert "the server failed: MemoryError" in capsys.readouterr().err
