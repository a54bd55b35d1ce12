"""A run from Python, from a file, and with one word for the stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_flow
from rlhf_flow.cli.main import main
from rlhf_flow.config import compose as config
from rlhf_flow.config.overrides import from_mapping
from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.runner import prepare as build
from rlhf_flow.system import optional_deps as needs
from tests.cli.test_main import LOCAL, Prepared
from tests.support import tiny

pytestmark = pytest.mark.slow

BARE = ("model.path=some/model", "prompts.path=prompts.jsonl", "scorer.path=some/judge")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that were run."""
    seen: list[RunConfig] = []
    monkeypatch.setattr(build, "prepare", lambda asked: Prepared(asked, seen.append))
    return seen


# -- Python -----------------------------------------------------------------------------------------------------------


def test_keys_are_given_as_typed_or_as_a_mapping(runs: list[RunConfig]) -> None:
    rlhf_flow.run([*LOCAL, "rounds=2"])
    rlhf_flow.run({**dict(key.split("=") for key in LOCAL), "rounds": 2})
    assert runs[0] == runs[1]
    assert runs[0].rounds == 2


def test_a_function_is_the_scorer(runs: list[RunConfig]) -> None:
    rlhf_flow.run({"stack": "local", "model.path": "m", "prompts.path": "p"}, reward=tiny.shorter)
    assert (part_name("scorer", runs[0].scorer), runs[0].scorer.function) == ("rule", "tests.support.tiny.shorter")


def test_a_function_without_a_name_is_refused() -> None:
    def inner(prompt: object, answer: str, meta: object) -> float:
        return 0.0

    for nameless in (inner, lambda prompt, answer, meta: 0.0):
        with pytest.raises(ValueError, match=r"cannot be imported by this name\. Fix: define it with `def` at the top"):
            rlhf_flow.run(LOCAL, reward=nameless)


def test_a_function_of_a_notebook_needs_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "mine", tiny.shorter, raising=False)
    monkeypatch.setattr(tiny.shorter, "__module__", "__main__")
    monkeypatch.setattr(tiny.shorter, "__qualname__", "mine")
    with pytest.raises(ValueError, match=r"Fix: stack=local"):
        rlhf_flow.run(BARE[:2], reward=tiny.shorter)


@pytest.mark.slow
def test_a_script_runs_with_a_function_of_its_own_and_has_the_records(tmp_path: Path) -> None:
    keys = dict(one.split("=", 1) for one in tiny.overrides(tmp_path / "model", tmp_path / "prompts", tmp_path / "run"))
    del keys["scorer"], keys["scorer.function"]
    tiny.policy(tmp_path / "model")
    tiny.prompts(tmp_path / "prompts")
    script = tmp_path / "notebook.py"
    script.write_text(
        "import json, rlhf_flow\n"
        "def mine(prompt, answer, meta):\n    return -len(answer)\n"
        f"records = rlhf_flow.run({keys!r}, reward=mine)\n"
        "print(json.dumps([record.metrics['eval/win_rate'] for record in records]))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rates = json.loads(done.stdout.splitlines()[-1])
    assert len(rates) == 2 and rates[0] == 0.5


# -- a file -----------------------------------------------------------------------------------------------------------


def test_the_file_that_init_writes_is_run(
    runs: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    assert main(["init", str(file)]) == 0
    text = file.read_text()
    assert "rlhf-flow run" in text and text.count("#") > 15
    assert main(["run", str(file), "rounds=8", "answers.n=4"]) == 0
    assert (runs[0].rounds, runs[0].run_dir, runs[0].sampler.draws[0].n) == (8, "runs/mine", 4)
    assert part_name("engine", runs[0].engine) == "huggingface"
    capsys.readouterr()
    assert main(["init", str(file)]) == 2
    assert "Fix: rlhf-flow init another.yaml" in capsys.readouterr().err
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n", "holds no keys"),
        ("a: [\n", "is not valid YAML"),
        (None, "cannot be read"),
        ("roundz: 3\n", "no key 'roundz'"),
    ],
)
def test_a_file_that_cannot_be_run_is_a_mistake(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yml"
    if text is not None:
        file.write_text(text)
    assert main(["run", str(file), *LOCAL]) == 2
    assert told in capsys.readouterr().err


def test_values_of_a_file_are_read_as_they_are_written() -> None:
    keys = {"model": {"path": "a=b, (c)'d"}, "answers.stop": ["\n", "it's"], "seed": 3, "scorer": None, "lag": 0}
    made = config.compose(*LOCAL, *from_mapping(keys))
    assert (made.model.path, made.sampler.draws[0].stop, made.seed) == ("a=b, (c)'d", ["\n", "it's"], 3)


# -- a stack ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        ("local", ("local", "huggingface", "torch")),
        ("cpu", ("ray", "vllm", "deepspeed")),
        ("gpu", ("ray", "vllm", "deepspeed")),
    ],
)
def test_a_stack_is_three_choices(stack: str, told: tuple[str, ...]) -> None:
    made = config.compose(*BARE, f"stack={stack}")
    assert tuple(part_name(group, getattr(made, group)) for group in ("cluster", "engine", "learner")) == told
    assert stack != "gpu" or made.cluster.layout == "colocated"
    assert part_name("learner", config.compose(*BARE, f"stack={stack}", "learner=torch").learner) == "torch"


def test_a_stack_fits_an_experiment_and_the_training_of_a_judge(
    runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_flow.sandbox.world import locate

    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    locate().root.mkdir()
    locate().facts.write_text("{}")
    made = config.compose("experiment=sandbox", "stack=local")
    assert (part_name("learner", made.learner), made.learner.training.optimizer.lr) == ("torch", 2e-4)
    assert {draw.max_tokens for draw in [*made.sampler.drawn.values(), made.evaluate.draw]} == {64}
    assert main(["train-reward", "stack=local", "model.path=m", "prompts.path=p"]) == 0
    assert part_name("engine", runs[0].engine) == "none"


def test_all_that_is_not_installed_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"ray \(cluster=ray\), vllm \(.*deepspeed \(.*Fix: stack=local"):
        config.compose(*BARE)
    config.compose(*BARE, "stack=local")


# -- what was chosen --------------------------------------------------------------------------------------------------


def test_a_printed_configuration_names_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *LOCAL, "scorer@evaluate.scorer=rule", "evaluate.scorer.function=a.b", "--cfg", "job"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# algorithm=online_dpo\n")
    assert "schedule: {} # schedule=fixed\n" in page
    assert "replay: # replay=window\n" in page
    assert "  scorer: # scorer@evaluate.scorer=rule\n" in page
