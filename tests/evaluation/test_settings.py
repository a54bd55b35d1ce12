"""The configuration of an evaluation: the run's, with what the command line replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.config.compose import as_yaml
from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.evaluation.judge import check
from rlhf_flow.evaluation.settings import settings
from tests.support.configured import configured

SECRET = "s3cr3t-0123456789abcdef"
RULE = "scorer.function=tests.support.tiny.shorter"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that trains by one rule and evaluates by another."""
    evaluated_by = {"scorer@evaluate.scorer": "rule", "evaluate.scorer.function": "tests.support.tiny.vowels"}
    (tmp_path / "rounds").mkdir()
    (tmp_path / "config.yaml").write_text(as_yaml(configured(seed=7, **evaluated_by)))
    return tmp_path


def test_the_evaluation_scorer_of_a_run_judges(run: Path) -> None:
    config = settings(run, [], out=Path("out"))
    assert config.scorer.function == "tests.support.tiny.vowels"
    assert (config.evaluate.scorer, config.seed, config.run_dir) == (None, 7, "out")


def test_a_named_part_replaces_that_of_the_run_and_a_key_replaces_a_value(run: Path) -> None:
    config = settings(run, ["scorer=rule", RULE, "answers.temperature=0", "seed=3"], out=Path("out"))
    assert config.scorer.function == "tests.support.tiny.shorter"
    assert (config.evaluate.draw.temperature, config.evaluate.draw.max_tokens, config.seed) == (0, 8, 3)


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose judge is asked with a secret in an environment variable."""
    monkeypatch.setenv("GATEWAY_PASSWORD", SECRET)
    request = {"scorer": "judge", "scorer.model": "m", "+scorer.request.header": "Bearer ${oc.env:GATEWAY_PASSWORD}"}
    (tmp_path / "rounds").mkdir()
    (tmp_path / "config.yaml").write_text(as_yaml(configured(**request)))
    assert SECRET not in (tmp_path / "config.yaml").read_text()
    return tmp_path


@pytest.mark.parametrize("keys", [[], ["scorer.max_tokens=8"]])
def test_a_secret_of_the_run_comes_from_its_environment_variable(judged: Path, keys: list[str]) -> None:
    config = settings(judged, keys, out=Path("out"))
    assert config.scorer.request == {"header": f"Bearer {SECRET}"}
    assert SECRET not in as_yaml(config)


def test_a_secret_is_missed_by_the_name_of_its_variable_once_its_scorer_is_used(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_PASSWORD")
    with pytest.raises(ValueError, match=r"^scorer\.request\.header: .* Fix: export GATEWAY_PASSWORD=\.\.\.$"):
        check(settings(judged, [], out=Path("out")))
    check(settings(judged, ["scorer=rule", RULE], out=Path("out")))  # another scorer needs no secret of the run


def test_without_a_run_neither_model_nor_prompts_are_needed() -> None:
    config = settings(None, ["stack=local", "scorer=rule", RULE], out=Path("out"))
    assert config.scorer.function == "tests.support.tiny.shorter"
    assert (config.cluster.in_process, type(config.engine)) == (True, HuggingFace)


def test_keys_of_a_file_that_an_evaluation_does_not_read_are_left_out(run: Path) -> None:
    (run / "mine.yaml").write_text("scorer: rule\nscorer.function: tests.support.tiny.shorter\nrounds: 9\n")
    assert settings(run, [str(run / "mine.yaml")], out=Path("out")).scorer.function == "tests.support.tiny.shorter"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("rounds=3", "reads only keys of"),
        ("stack=other", "not a known stack"),
        ("scorer@evaluate.scorer=rule", "one scorer"),
    ],
)
def test_mistakes(key: str, problem: str, run: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        settings(run, [key], out=Path("out"))
