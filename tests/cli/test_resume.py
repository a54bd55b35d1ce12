"""`rlhf-flow resume RUN`: from another folder, with more rounds, and never with another run's keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from tests.support import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round with relative paths, and a reward in a module that only its folder has."""
    folder = tmp_path_factory.mktemp("started")
    tiny.policy(folder / "model")
    tiny.prompts(folder / "prompts.jsonl")
    (folder / "lab_of_resume.py").write_text("def short(prompt, answer, meta):\n    return -len(answer)\n")
    keys = {"scorer.function": "lab_of_resume.short", "observe.console": "false"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", *tiny.overrides(Path("model"), Path("prompts.jsonl"), Path("run"), **keys)]) == 0
    return folder / "run"


def test_it_goes_on_from_any_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = (run / "rounds/00001/record.json").read_bytes()
    assert main(["resume", str(run), "rounds=2"]) == 0
    assert (run / "rounds/00001/record.json").read_bytes() == first
    assert (run / "rounds/00002/record.json").is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["objective.beta=3"], "objective.beta was 0.1, now 3.0. Fix: restore the old values"),
        (["algorithm=xpo"], "algorithm=xpo: the run has begun with its parts"),
        (["rounds=2,3"], "rounds=2,3: a resume changes single keys. Fix: key=value."),
        (["selector=fastest"], "selector=fastest: resume knows these parts: only_pair, "),
        (["objective.bata=3"], "there is no key 'objective.bata'"),
        (["--rounds=3"], "Fix: rounds=3."),
        (["observe=nowhere"], "observe.classes=nowhere: it must be written module.Class"),
        (["absent.yaml"], "absent.yaml cannot be read"),
    ],
)
def test_a_mistake_is_one_paragraph(
    run: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(run), *arguments]) == 2
    captured = capsys.readouterr().err
    assert told in captured
    assert captured.count("\n") == 1


def test_a_folder_without_a_run_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(tmp_path)]) == 2
    assert "holds no run: it has no config.yaml. Fix: name the run's folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_round_is_not_what_is_resumed_or_reported(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run/rounds").mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    assert main([command, f"{tmp_path}/run@1"]) == 2
    assert f"Fix: {tmp_path}/run, without @1." in capsys.readouterr().err


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rlhf_flow.config.compose import as_yaml, compose
    from rlhf_flow.config.resumed import resumed

    monkeypatch.setenv("JUDGE_KEY", "sk-0123456789abcdef0123456789abcdef")
    keys = ["stack=local", "model.path=m", "prompts.path=p", "scorer=judge", "scorer.model=j"]
    first = compose(*keys, "scorer.endpoint.query={key: '${oc.env:JUDGE_KEY}'}")
    (tmp_path / "config.yaml").write_text(as_yaml(first))
    assert "sk-0123" not in (tmp_path / "config.yaml").read_text()
    assert resumed(tmp_path).scorer == first.scorer
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match=r"^scorer\.endpoint\.query\.key: .* Fix: export JUDGE_KEY=\.\.\.$"):
        resumed(tmp_path)
