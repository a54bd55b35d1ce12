"""Arguments of commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

HELP = re.compile(r"(-h|--help)(=(?P<what>.*))?")


class Arguments(argparse.ArgumentParser):
    """A parser that raises ValueError for a mistake. Options are written in full, and the help is a page of its own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. Try {self.prog} --help.")


def hydra_options(prog: str) -> Arguments:
    """The options of Hydra, which prints a page of its own for a mistake in them."""
    parser = Arguments(prog)
    for names in (
        *(("--hydra-help",), ("--version",), ("--resolve",), ("--run", "-r"), ("--multirun", "-m")),
        ("--shell-completion", "-sc"),
    ):
        parser.add_argument(*names, action="store_true")
    for names in (
        *(("--package", "-p"), ("--config-path", "-cp"), ("--config-name", "-cn"), ("--config-dir", "-cd")),
        ("--experimental-rerun",),
    ):
        parser.add_argument(*names)
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    kinds = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("--info", "-i", nargs="?", choices=kinds, const="all")
    parser.add_argument("overrides", nargs="*")
    return parser


def help_wanted(arguments: Sequence[str]) -> str | None:
    """What is asked of the help: all, or "" for the page; None without --help. Raises ValueError for anything else."""
    for argument in arguments:
        if found := HELP.fullmatch(argument):
            what = found["what"] or ""
            if what not in ("", "all"):
                raise ValueError(f"{argument}: there is no such page. Fix: --help or --help=all.")
            return what
    return None


def folder(path: str) -> Path:
    """The type of an option. Raises ValueError if there is no such folder."""
    if not Path(path).is_dir():
        raise ValueError(f"--config-dir {path}: there is no such folder")
    return Path(path)


def is_key(word: str) -> bool:
    """Whether it is key=value or a YAML file with keys, and not a run or a folder, whose name may hold `=`, too."""
    from rlhf_flow.storage.run_policies import split

    return ("=" in word or word.endswith((".yaml", ".yml"))) and split(word) is None and not Path(word).is_dir()
