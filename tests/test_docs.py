"""Every command in README and in the documentation: it composes, its help exists, or it is in the list of exceptions.

`pytest -rP tests/test_docs.py` prints that list: commands that need a GPU, a network, another machine or minutes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlhf_flow.cli import help as manual
from rlhf_flow.cli import init, main, pages
from rlhf_flow.config.compose import CONFIGS, register
from rlhf_flow.config.overrides import expanded
from rlhf_flow.config.schema import GROUPS, RunConfig, parts
from rlhf_flow.specs import Model

ROOT = Path(__file__).parents[1]
GENERATED = [ROOT / "docs/reference" / name for name in ("python.md", "presets.md")]
PAGES = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in path.parts and "keys" not in path.parts and path not in GENERATED
)
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASKS = ("--help", "--help=all")
REASONS = {  # first words of a command -> why no test runs it
    "make": "sets up .venv, or takes minutes; that the target exists is tested",
    "sbatch": "needs SLURM; tests/launch runs the script on a stand-in",
    "scripts/launch/ssh.sh": "needs other machines; tests/launch runs the script on a stand-in",
    "kubectl": "needs Kubernetes; tests/launch checks the files",
    "docker": "needs Docker; tests/launch checks the files",
    "ssh": "needs another machine",
    "uv": "needs a network",
    "python3.11": "sets up an environment",
    ".venv/bin/python": "needs a network, or takes minutes",
    "python": "takes minutes",
    "git": "needs a network",
    "pip": "needs a network",
    "source": "is the shell's",
    "export": "is the shell's",
    "eval": "is the shell's; tests/cli/test_completion.py runs the script",
    "rlhf-flow doctor": "opens the model; its keys are composed, and tests/doctor runs it",
    "rlhf-flow plan": "opens the model; its keys are composed, and tests/cli/test_plan.py runs it",
    "rlhf-flow serve": "serves until it is interrupted; its keys are composed by tests/serve",
    "rlhf-flow sandbox": "takes two minutes; tests/sandbox builds a small world",
    "rlhf-flow label": "serves until it is interrupted; tests/label runs it",
    "rlhf-flow resume": "needs a run; tests/cli/test_resume.py resumes one",
    "rlhf-flow new": "writes a folder; tests/cli/test_ls_and_new.py runs it",
    "rlhf-flow report": "needs a run; tests/report writes reports",
    "rlhf-flow eval": "needs a run; tests/evaluation runs each form",
    "rlhf-flow judgements": "reads the user's cache; tests/cli/test_judgements.py runs it",
    "rlhf-flow compare": "takes an hour; tests/cli/test_compare.py runs it",
    "rlhf-flow export": "needs a run; tests/export exports one",
    "rlhf-flow merge": "needs models; tests/export merges some",
    "rlhf-flow chat": "needs a checkpoint; tests/chat chats with one",
    "rlhf-flow convert": "needs a checkpoint; tests/runs/test_starts.py runs it",
    "rlhf-flow verify": "takes minutes; tests/verify checks the claims",
}


@dataclass(frozen=True)
class Command:
    """A command in a fenced block."""

    page: str
    text: str

    @cached_property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def keys(self) -> list[str]:
        """The arguments of `rlhf-flow run` and its like that are keys, without the options."""
        return [word for word in self.words[2:] if not word.startswith("--")]

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield page.relative_to(ROOT).as_posix(), text


def commands() -> list[Command]:
    """Each command of each ```bash block, once; a line that ends in a backslash goes on."""
    lines = [(page, line.strip()) for page, text in blocks("bash") for line in text.replace("\\\n", " ").splitlines()]
    found = [Command(page, line) for page, line in lines if line and not line.startswith("#")]
    return list({command.text: command for command in found}.values())


COMMANDS = commands()


def of(*names: str) -> list[Command]:
    return [command for command in COMMANDS if command.words[0] == "rlhf-flow" and command.words[1] in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """init/mine.yaml is that of `rlhf-flow init`; how-to/mine.yaml is the one that the how-to pages show."""
    made = tmp_path_factory.mktemp("pages")
    for name in ("init", "how-to"):
        (made / name).mkdir()
    init.write(made / "init/mine.yaml")
    shown = next(text for page, text in blocks("yaml") if page == "docs/how-to/index.md")
    (made / "how-to/mine.yaml").write_text(shown)
    return made


def test_every_command_is_tested_or_is_an_exception() -> None:
    """Prints the exceptions: `pytest -rP`."""
    tested = {command.text for command in (*of("run", "sft", "train-reward", "init", "completion"), *helps())}
    exceptions = [command for command in COMMANDS if command.text not in tested]
    why = {command: reason(command) for command in exceptions}
    assert not [str(command) for command, cause in why.items() if cause is None]
    for command, cause in why.items():
        print(f"{command}\n    {cause}")


def reason(command: Command) -> str | None:
    first = " ".join(command.words[:2])
    return next((why for begin, why in REASONS.items() if first == begin or command.words[0] == begin), None)


@cache
def helps() -> list[Command]:
    return [command for command in COMMANDS if command.words[0] == "rlhf-flow" and command.words[-1] in ASKS]


@pytest.mark.parametrize("command", helps(), ids=str)
def test_its_help_exists(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command.words[1:]) == main.DONE
    assert len(capsys.readouterr().out) > len(pages.RUN) // 2


COMPOSED = [command for command in of("run", "sft", "train-reward", "doctor", "plan") if command not in helps()]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPOSED, ids=str)
def test_it_composes(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A swept value is its first one, options are left out; paths need not exist."""
    monkeypatch.chdir(folder / ("how-to" if "how-to" in command.page else "init"))
    swept = "--multirun" in command.words
    plugins = r"hydra[/.].*|[^=]+=(tag|interval|range|choice)\(.*"  # of launchers and sweepers, installed apart
    keys = [key for key in command.keys if not re.fullmatch(rf"\d+|\d+GiB|conf|job|{plugins}", key)]
    first = [re.sub(r"^([^=\[{]+=[^,\[{]+),.*", r"\1", key) if swept else key for key in keys]
    own = [word.partition("=")[2] for word in command.words if word.startswith("--config-dir=")]
    composed(command.words[1], [*expanded(first), *(f"hydra.searchpath=[file://{ROOT / each}]" for each in own)])


def composed(name: str, keys: list[str]) -> None:
    register()
    with initialize_config_dir(config_dir=str(CONFIGS.resolve()), version_base="1.3"):
        compose(name if name in ("sft", "train-reward") else "run", overrides=keys)


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = [text for page in PAGES for text in re.findall(r"`(make [^`]+)`", page.read_text(encoding="utf-8"))]
    named = [command.text for command in COMMANDS if command.words[0] == "make"] + shown
    assert not [text for text in named if text.split()[1] not in targets]


def test_every_script_that_is_named_exists() -> None:
    for page in PAGES:
        for path in re.findall(r"\b(scripts/[\w/.]+\.(?:py|sh|sbatch|yaml))", page.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"


def test_every_key_that_is_named_is_a_key() -> None:
    """`group.key=` and `group.key` in backticks; keys of one's own groups, such as NAME, are no keys."""
    known = known_keys()
    for page in PAGES:
        for key in re.findall(rf"`((?:{'|'.join(groups())})(?:\.\w+)+)(?==|`)", page.read_text(encoding="utf-8")):
            words = key.split(".")  # a key of a mapping, such as model.chat_template.kwargs.enable_thinking, is its own
            longer = {".".join(words[:n]) for n in range(2, len(words) + 1)}
            assert longer & known or key.endswith(".py"), f"{page.name}: {key}"


def groups() -> set[str]:
    return {key.partition(".")[0] for key in known_keys() if "." in key}


def known_keys() -> set[str]:
    sections = {"model": Model} | manual._sections("", RunConfig)
    found = {field.name for field in fields(RunConfig)}
    for group in GROUPS:
        for part in parts(group).values():
            found |= {f"{group}.{field.name}" for field in fields(part)}
            sections |= manual._sections(f"{group}.", part)
            for key, inner in manual._sections(f"{group}.", part).items():
                found |= {f"{key}.{field.name}" for field in fields(inner)}
    for key, part in sections.items():
        found |= {f"{key}.{field.name}" for field in fields(part)}
    return found


@pytest.mark.slow
def test_the_pages_build(tmp_path: Path) -> None:
    """A warning is an error: a link to nowhere, a page in no table of contents."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "<math" in (tmp_path / "algorithms/online_dpo.html").read_text(encoding="utf-8")


def test_the_page_of_presets_is_that_of_their_files() -> None:
    generated = pytest.importorskip("presets", reason="needs Sphinx").page()
    assert (ROOT / "docs/reference/presets.md").read_text(encoding="utf-8") == generated, "make docs writes it again"


def test_python_blocks_are_python() -> None:
    for page, text in blocks("python"):
        compile(text, page, "exec")


def test_the_comparison_has_every_feature_that_has_a_page() -> None:
    compared = (ROOT / "docs/reference/compared.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(\.\./how-to/([\w-]+)\.md", compared))
    assert linked == {page.stem for page in (ROOT / "docs/how-to").glob("*.md")} - {"index"}


def test_links_of_the_readme_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name}: {target}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
