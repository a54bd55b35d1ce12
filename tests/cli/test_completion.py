"""The TAB of a shell."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_flow.cli.compare import RECIPES, WORLDS
from rlhf_flow.cli.completion import FOLLOWING, words
from rlhf_flow.cli.main import main
from rlhf_flow.evaluation.benchmarks import FORMATS
from rlhf_flow.evaluation.judgements import READERS
from rlhf_flow.export.dataset import KINDS
from rlhf_flow.export.model import DTYPES

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
        ("rlhf-flow eval runs/mine scorer=jud", ["judge "]),
        ("rlhf-flow eval --export a", ["alpaca_eval ", "arena_hard "]),
        ("rlhf-flow eval --export=mt", ["mt_bench "]),
        ("rlhf-flow serve scorer=rul", ["rule ", "rules "]),
        ("rlhf-flow serve max_b", ["max_batch=", "max_body_mib="]),
        ("rlhf-flow resume runs/mine roun", ["rounds="]),
        ("rlhf-flow train-reward rew", ["reward="]),
        ("rlhf-flow train-reward reward=gp", ["gpm "]),
        ("rlhf-flow run rew", []),
        ("rlhf-flow run scorer@ev", ["evaluate.scorer.base=", "evaluate.scorer="]),
        ("rlhf-flow run --multirun algorithm=xpo,online_i", ["xpo,online_ipo "]),
        ("rlhf-flow run prompts.too_long=", ["cut ", "drop ", "refuse "]),
        ("rlhf-flow run --multirun prompts.too_long=cut,d", ["cut,drop "]),
        ("rlhf-flow run observe.console=l", ["lines "]),
        ("rlhf-flow run nothing.at.all=c", []),
        ("rlhf-flow run learner=torch learner.training.schedule.kind=c", ["constant ", "cosine "]),
        ("rlhf-flow export ", ["labels ", "model ", "pairs ", "sft "]),
        ("rlhf-flow export pairs ", []),
        ("rlhf-flow export model runs/mine --dtype fl", ["float16 ", "float32 "]),
        ("rlhf-flow compare --recipes xpo online_i", ["online_ipo "]),
        ("rlhf-flow completion z", ["zsh "]),
        ("rlhf-flow judgements ", ["export ", "list ", "prune "]),
        ("rlhf-flow ls algorithm sche", ["schedule "]),
        ("rlhf-flow run --q", ["--quiet "]),
        ("rlhf-flow report --", ["--csv ", "--help "]),
        (" FOO=1 /usr/bin/rlhf-flow r", ["report ", "run "]),
        ("cd rlhf-flow; and rlhf-flow ls sche", ["schedule "]),
    ],
)
def test_what_may_follow(line: str, told: list[str]) -> None:
    assert words(line, " \t\n\"'><=;|&(:@", COMMANDS) == told


def test_a_file_of_one_s_own_is_a_choice(tmp_path: Path) -> None:
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective/mine.yaml").touch()
    assert words(f"rlhf-flow run --config-dir {tmp_path} objective=mi", "", COMMANDS) == ["objective=mine "]


def test_the_words_are_those_that_the_commands_take() -> None:
    assert FOLLOWING["export"] == (*KINDS, "model")
    assert FOLLOWING["export --dtype"] == DTYPES
    assert {*FOLLOWING["eval --export"]} == {*FORMATS}
    assert {*FOLLOWING["eval --import"]} == {*READERS}
    assert {*FOLLOWING["compare --recipes"]} == {*RECIPES}
    assert {*FOLLOWING["compare --world"]} == {*WORLDS}


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


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without settings of shells, and `rlhf-flow` on the PATH."""
    program = tmp_path / "bin" / "rlhf-flow"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rlhf_flow "$@"\n')
    program.chmod(0o755)
    for name, value in {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())}.items():
        monkeypatch.setenv(name, value)
    for name in ("HOME", "ZDOTDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "prompts.jsonl").touch()
    return tmp_path


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_words_and_files(on_path: Path) -> None:
    lines = ("rlhf-flow run scorer=rul", f"rlhf-flow run prompts.path={on_path}/pro", f"rlhf-flow report {on_path}/pro")
    script = "rlhf-flow completion fish | source; " + "; ".join(f"complete -C '{line}'" for line in lines)
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, timeout=300)
    file = f"{on_path}/prompts.jsonl"
    assert done.stdout.split() == ["scorer=rule", "scorer=rules", f"prompts.path={file}", file]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(
    "loaded", ['eval "$(rlhf-flow completion zsh)"', "rlhf-flow completion zsh > $HOME/_rlhf-flow"]
)
def test_zsh_completes_words_and_files(loaded: str, on_path: Path) -> None:
    """With the script evaluated after compinit, and with the script as a file on the fpath."""
    start, after = ("", loaded) if loaded.startswith("eval") else (loaded, "")
    show = 'show() { print -r -- "<$BUFFER>" }; zle -N show; bindkey "^X" show'
    (on_path / ".zshrc").write_text(
        f"{start}\nfpath=($HOME $fpath); autoload -Uz compinit; compinit -u\n{after}\n{show}\nPS1='ready '\n"
    )
    screen = _typed(
        ["zsh", "-i"], "rlhf-flow ru", "rlhf-flow run 'algorithm=inp", f"rlhf-flow run prompts.path={on_path}/pro"
    )
    assert "<rlhf-flow run >" in screen
    assert "<rlhf-flow run 'algorithm=inpo' >" in screen
    assert f"<rlhf-flow run prompts.path={on_path}/prompts.jsonl >" in screen


def _typed(shell: list[str], *lines: str) -> str:
    """What an interactive shell shows after each line and a TAB; Ctrl-X shows the line in `<>`, Ctrl-U clears it."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(shell[0], shell, {**os.environ, "TERM": "dumb", "COLUMNS": "400"})
    seen = _until(terminal, b"ready ")
    for line in lines:
        os.write(terminal, f"\x15{line}\t\x18".encode())
        seen += _until(terminal, b">")
    os.write(terminal, b"\x15exit\n")
    os.waitpid(child, 0)
    os.close(terminal)
    return seen


def _until(terminal: int, end: bytes) -> str:
    seen = b""
    while end not in seen and select.select([terminal], [], [], 60)[0]:
        seen += os.read(terminal, 4096)
    return seen.decode()
