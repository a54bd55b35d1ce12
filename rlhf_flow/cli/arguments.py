"""Arguments of commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn


class Arguments(argparse.ArgumentParser):
    """A parser that raises ValueError for a mistake. Options are written in full, and the help is a page of its own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. Try {self.prog} --help.")


def is_key(word: str) -> bool:
    """Whether it is key=value or a YAML file with keys, and not a run or a folder, whose name may hold `=`, too."""
    from rlhf_flow.storage.run_policies import split

    return ("=" in word or word.endswith((".yaml", ".yml"))) and split(word) is None and not Path(word).is_dir()
