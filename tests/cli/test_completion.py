"""The TAB of a shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from rlhf_flow.cli.completion import words
from rlhf_flow.cli.main import main

pytestmark = pytest.mark.slow

COMMANDS = ("run", "report", "doctor")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("rlhf-flow r", ["report ", "run "]),
        ("rlhf-flow run algorithm=online_", ["online_dpo ", "online_ipo ", "online_slic "]),
        ("rlhf-flow run stack=lo", ["local "]),
        ("rlhf-flow run scorer@evaluate.scorer=gol", ["gold "]),
        ("rlhf-flow run experiment=xpo", ["xpo/llama3_8b "]),
        ("rlhf-flow run learner.training.optimizer.l", ["learner.training.optimizer.lr="]),
        ("rlhf-flow run scorer=rule scorer.f", ["scorer.function="]),
        ("rlhf-flow run objective=nothing roun", ["rounds="]),
        ("rlhf-flow doctor observe.tensorboard=", ["false ", "true "]),
        ("rlhf-flow run ans", ["answers."]),
        ("rlhf-flow run prompts.path=prompts.j", []),  # bash completes files
        ("rlhf-flow ls sche", ["schedule "]),
        ("rlhf-flow report ", []),
        ("rlhf-flow run --q", ["--quiet "]),
        ("rlhf-flow report --", ["--csv ", "--help "]),
    ],
)
def test_what_may_follow(line: str, told: list[str]) -> None:
    assert words(line, " \t\n\"'><=;|&(:@", COMMANDS) == told


def test_a_shell_that_takes_whole_words_gets_them() -> None:
    assert {"stack=cpu ", "stack=gpu ", "stack=local "} < {*words("rlhf-flow run stack=", "", COMMANDS)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_it_can_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "completion words" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


def test_bash_completes() -> None:
    script = f"""
    rlhf-flow() {{ {shlex.quote(sys.executable)} -m rlhf_flow "$@"; }}
    eval "$(rlhf-flow completion bash)"
    COMP_LINE='rlhf-flow run scorer=rul'; COMP_POINT=${{#COMP_LINE}}
    _rlhf_flow rlhf-flow
    printf '<%s>' "${{COMPREPLY[@]}}"
    complete -p rlhf-flow
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("<rule ><rules >")
    assert "-F _rlhf_flow rlhf-flow" in done.stdout
    assert done.stderr == ""


def test_the_script_that_hydra_registers_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", "rlhf-flow run replay=w")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr() == ("replay=window \n", "")
    assert main(["run", "-sc", "install=bash"]) == 0
    assert "complete -o nospace" in capsys.readouterr().out
