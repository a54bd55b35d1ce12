"""The YAML files that a key chooses by name: experiment=sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def found_files(folders: Sequence[Path], group: str) -> dict[str, Path]:
    """The files of a group by name: `sandbox`, and `xpo/llama3_8b` of one in a folder."""
    homes = [folder / group for folder in folders]
    files = {file.relative_to(home).with_suffix("").as_posix(): file for home in homes for file in home.rglob("*.yaml")}
    return {name: files[name] for name in sorted(files, key=lambda name: (name.count("/"), name))}
