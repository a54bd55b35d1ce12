"""The command line: help that answers at once, mistakes in one paragraph with status 2, failures with their cause."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf_flow import __version__
from rlhf_flow.cli.main import main
from rlhf_flow.config.choices import Choices
from rlhf_flow.config.schema import GROUPS, RunConfig
from rlhf_flow.runner import prepare as build
from rlhf_flow.types import RoundRecord

pytestmark = pytest.mark.slow

LOCAL = [
    "cluster=local",
    "engine=huggingface",
    "learner=torch",
    "scorer=rule",
    "scorer.function=my_lab.judges.worth",
    "model.path=some/model",
    "prompts.path=prompts.jsonl",
]
HEAVY = ("torch", "transformers", "datasets", "ray", "vllm", "deepspeed", "wandb", "tensorboard")


@dataclass(frozen=True)
class Prepared:
    """A run that does what a test says."""

    config: RunConfig
    then: Callable[[RunConfig], None]

    def run(self, clusters: object = None) -> list[RoundRecord]:
        self.then(self.config)
        return []


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that were run; nothing heavier happens."""
    seen: list[RunConfig] = []
    monkeypatch.setattr(build, "prepare", lambda config, choices: Prepared(config, seen.append))
    return seen


def failing(error: BaseException) -> Callable[[RunConfig, Choices], Prepared]:
    def run(config: RunConfig) -> None:
        raise error

    return lambda config, choices: Prepared(config, run)


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *(
            [name, "--help"]
            for name in (
                "run",
                "resume",
                "ls",
                "new",
                "init",
                "report",
                "sandbox",
                "serve",
                "sft",
                "train-reward",
                "verify",
                "completion",
            )
        ),
        *([name, "--help"] for name in ("export", "merge", "chat")),
    ],
)
def test_every_command_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    page = capsys.readouterr().out
    assert page.startswith("rlhf-flow")
    assert all(len(line) <= 120 for line in page.splitlines())


def test_the_page_of_run_names_every_group_and_part(capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_flow.config.compose import parts

    main(["run", "--help=all"])
    lines = capsys.readouterr().out.splitlines()
    for group in GROUPS:
        assert any(line.startswith(f"  {group}=") for line in lines)
        for name in parts(group):
            assert any(line.split()[:1] == [name] for line in lines)
    assert any(line.split()[:1] == ["online_dpo"] for line in lines)
    words = {word.partition("=")[0] for line in lines for word in line.split()}
    assert {
        "lag",
        "seed",
        "off_policy.max_mismatch",
        "resampling.max_batches",
        "cluster.transfer.by",
        "observe.wandb.mode",
    } <= words
    assert "learner.training.optimizer.lr" in words


def test_the_page_of_run_names_files_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "mine.yaml").write_text("# Twice as good.\n_target_: my_lab.Mine\n")
    main(["run", "--config-dir", str(tmp_path), "--help=all"])
    assert any(line.split() == ["mine", "Twice", "as", "good."] for line in capsys.readouterr().out.splitlines())


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlhf-flow {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "--cfg", "job"]])
def test_a_look_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from rlhf_flow.cli.main import main; status = main(sys.argv[1:]); "
        f"print('imported', sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "imported []\n")
    assert done.stdout


def test_the_module_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "rlhf_flow", "runn"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    known = "run, resume, compare, convert, export, doctor, eval, plan, init, judgements, label, ls, new, merge, chat"
    known += ", report, sandbox, serve"
    known += ", sft, train-reward, verify, completion"
    assert done.stderr == f"rlhf-flow: there is no command 'runn'. Try {known}, or --help.\n"


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_overrides_reach_the_run(runs: list[RunConfig]) -> None:
    assert main(["run", *LOCAL, "rounds=2", "objective.beta=0.3"]) == 0
    assert [(config.rounds, config.objective.beta) for config in runs] == [(2, 0.3)]


def test_hydra_leaves_no_trace(runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    argv = sys.argv
    assert main(["run", *LOCAL]) == 0
    assert list(tmp_path.iterdir()) == []
    assert Path.cwd() == tmp_path
    assert sys.argv is argv
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_each_job_of_a_multirun_has_its_own_folder(
    runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *LOCAL, "run_dir=runs/sweep", "--multirun", "seed=1,2", "rounds=2,3"]) == 0
    assert [(config.seed, config.rounds, config.run_dir) for config in runs] == [
        (1, 2, "runs/sweep-seed=1,rounds=2"),
        (1, 3, "runs/sweep-seed=1,rounds=3"),
        (2, 2, "runs/sweep-seed=2,rounds=2"),
        (2, 3, "runs/sweep-seed=2,rounds=3"),
    ]


def test_a_part_of_one_s_own_from_a_config_dir(
    runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_memory.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Everything:\n"
        "    since: int\n"
        "    def rounds(self, round): return tuple(range(self.since, round + 1))\n"
    )
    (tmp_path / "conf" / "replay").mkdir(parents=True)
    (tmp_path / "conf" / "replay" / "everything.yaml").write_text("_target_: my_memory.Everything\nsince: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["run", *LOCAL, "--config-dir", str(tmp_path / "conf"), "replay=everything", "replay.since=2"]
    assert main(arguments) == 0
    assert runs[0].replay.rounds(4) == (2, 3, 4)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["objective.bata=1"],
            "there is no key 'objective.bata': objective has no 'bata'. Did you mean objective.beta?",
        ),
        (["objectiv.beta=1"], "Did you mean objective?"),
        (["expriment=sandbox"], "Did you mean experiment?"),
        (
            ["objective=dop"],
            "objective=dop is not a known objective. Did you mean objective=dpo? Try one of a_lol, asymre, brad",
        ),
        (["experiment=qwen3/8"], "experiment=qwen3/8 is not a known experiment. Did you mean experiment=qwen3/8b?"),
        (["schedule.k=3"], "schedule has no 'k'. This schedule has no keys; choose another."),
        (["objective.beta=strong"], "objective.beta=strong: expected a number. Fix: objective.beta=0.1."),
        (["rounds=1.5"], "rounds=1.5: expected a whole number. Fix: rounds=4."),
        (["objective.beta=-1"], "objective.beta must be > 0, got -1.0"),
        (["sampler.draws=[{name: a, m: 3}]"], "'m'"),
        (["rounds"], "cannot read 'rounds': it must be key=value."),
        (["+replay.depth=3"], "+replay.depth: there is no such key, and + cannot add one. Fix: leave it out; the keys"),
        (
            ["+prompts.hold_out=3"],
            "+prompts.hold_out: there is no such key, and + cannot add one. Fix: prompts.held_out=",
        ),
        (["selector=only_pair", "sampler.draws.0.n=3"], "selector=only_pair needs exactly 2 responses per prompt"),
        (
            ["evaluate.scorer=rule"],
            "evaluate.scorer needs a part, but got 'rule'. Fix: scorer@evaluate.scorer=rule, or",
        ),
        (["evaluate.scorer=3"], "evaluate.scorer needs a part, but got 3. Fix: scorer@evaluate.scorer="),
        (["scorer@evaluate.scorer=rule", "evaluate.scorer=rule"], "Fix: scorer@evaluate.scorer=rule"),
        (
            ["evaluate.scorer.function=my_lab.gold"],
            "evaluate.scorer has no 'function'. Fix: scorer@evaluate.scorer=name",
        ),
        (["scorer=3"], "a part is chosen by its name, and int is not one. Fix: group=name"),
        (["scorer@evaluate.scorer=null"], "NoneType is not one. Fix: group=name, or ~group for no part."),
        (["sampler.draws.0.temperature=0"], "n must be 1 at temperature 0"),
        (["engine=vllm"], "Fix: cluster=ray, or engine=huggingface."),
        (["learner=deepspeed", "learner.ranks=2"], "Fix: cluster=ray, or learner.ranks=1."),
        (["prompts.path=???"], "prompts.path must be given. Fix: prompts.path=..."),
        (["model.path=${sandbox:polic}"], "model.path: the sandbox world has no 'polic'. Fix: one of policy,"),
        (["run_dir=${run_dri}"], "run_dir: "),
        (["--multirun", "objective.beta=0.1,strong"], "objective.beta=strong: expected a number"),
        (["--config-dir", "no/such/folder"], "no/such/folder: no such folder. Fix: name the folder"),
        (["--config-name", "walk"], "there is no configuration 'walk'."),
        (["reward=my_lab.worth"], "A run has a scorer. Fix: scorer=rule scorer.function=my_lab.worth."),
        (["model=my/model"], "model=my/model: model has keys of its own. Fix: model.path=my/model."),
        (["prompts=mine.jsonl"], "prompts=mine.jsonl is not a known prompts. Fix: prompts.path=mine.jsonl."),
        (["scorer@evaluate.score=rule"], "evaluate.score takes no scorer. Did you mean scorer@evaluate.scorer?"),
        (["experiment=selm"], "Did you mean experiment=selm/llama3_8b_instruct or experiment=selm/zephyr_7b? Try"),
        (["algorithm=[xpo]"], "algorithm=[...]: one name is chosen, not a list. Fix: algorithm=name."),
        (["sampler.draws=[{n: x}]"], "sampler.draws: n=x: expected a whole number."),
        (["my file.yaml"], "Fix: rlhf-flow init 'my file.yaml' writes one."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_paragraph_and_status_2(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *LOCAL, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rlhf-flow: ")
    assert captured.err.count("\n") == 1, "one paragraph"
    assert told in captured.err
    assert not any(word in captured.err for word in ("ydra", "defaults list", "OmegaConf", "Error merging"))


def test_what_prepare_refuses_is_a_mistake_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *LOCAL]) == 2  # some/model is no checkpoint
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_asked_is_answered_with_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "rlhf-flow COMMAND --help" in capsys.readouterr().out


def test_a_report_of_nothing_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("rlhf-flow: ")


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_has_status_1_its_cause_and_the_way_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "prepare", failing(RuntimeError("learner rank 1 died: out of memory")))
    assert main(["run", *LOCAL, "run_dir=runs/a b"]) == 1
    *_, cause, again = capsys.readouterr().err.splitlines()
    assert cause == "rlhf-flow: the run failed: learner rank 1 died: out of memory"
    assert again.endswith(" resume 'runs/a b'")


def test_a_failure_before_there_is_a_folder_names_the_command_to_repeat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(config: RunConfig, choices: Choices) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(build, "prepare", full)
    assert main(["run", *LOCAL, "run_dir=runs/a b"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("prompts.path=prompts.jsonl 'run_dir=runs/a b'")


def test_a_failing_job_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []

    def run(config: RunConfig) -> None:
        seen.append(config.seed)
        if config.seed == 1:
            raise RuntimeError("full disk")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "prepare", lambda config, choices: Prepared(config, run))
    assert main(["run", *LOCAL, "--multirun", "seed=1,2"]) == 1
    assert seen == [1, 2]
    assert "the run failed: full disk" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "prepare", failing(KeyboardInterrupt()))
    assert main(["run", *LOCAL, "rounds=3"]) == 130
    told = capsys.readouterr().err
    assert "stopped" in told
    assert told.rstrip().endswith(" resume runs/default")
    assert "Traceback" not in told
