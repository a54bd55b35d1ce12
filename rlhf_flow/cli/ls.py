"""`rlhf-flow ls`: the names that a key may choose, each with one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten

from rlhf_flow.cli import help as pages
from rlhf_flow.cli.arguments import Arguments, folder
from rlhf_flow.cli.help import KINDS
from rlhf_flow.config.compose import CONFIGS, parts
from rlhf_flow.config.group_files import found_files
from rlhf_flow.config.schema import GROUPS

NAME = 24  # characters before a description


def main(arguments: Sequence[str]) -> int:
    """Print the kinds of names, or the names of the kinds in the arguments. Raises ValueError for an unknown kind."""
    parser = Arguments("rlhf-flow ls")
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], type=folder)
    given = parser.parse_args(arguments)
    kinds = [_kind(word) for word in given.kinds]
    for at, kind in enumerate(kinds):
        if len(kinds) > 1:
            print(f"{chr(10) if at else ''}{kind}: {KINDS[kind]}\n")
        print("\n".join(_line(name, about) for name, about in _listed(kind, [CONFIGS, *given.config_dir])))
    if not kinds:
        print("rlhf-flow ls KIND lists each with one line; rlhf-flow run KIND=NAME --help describes one. Kinds:\n")
        print("\n".join(_line(kind, sentence) for kind, sentence in KINDS.items()))
    return 0


def _kind(word: str) -> str:
    """The kind that a word means, in the singular or the plural. Raises ValueError if there is none."""
    found = [kind for kind in KINDS if word in (kind, f"{kind}s")]
    if not found:
        raise ValueError(f"ls {word}: there is no such kind. Fix: one of {', '.join(KINDS)}.")
    return found[0]


def _listed(kind: str, folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for name, part in (parts(kind) if kind in GROUPS else {}).items():
        yield name, pages.summary(part)
    for name, file in found_files(folders, kind).items():
        yield name, pages.about(file)


def _line(name: str, about: str) -> str:
    sentence = re.split(r"(?<=\w\w\w[.)]) (?=[A-Z`])", about)[0]
    return f"{name:{NAME}}{shorten(sentence, pages.WIDTH - NAME, placeholder=' ...')}"
