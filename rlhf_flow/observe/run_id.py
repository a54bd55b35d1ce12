"""The id of a run in the library of an observer: the same for all its starts."""

from __future__ import annotations

import secrets
from pathlib import Path


def run_id(path: Path, name: str) -> str:
    """The id in the file `path`, which the first start writes. A moved folder keeps it; a new folder gets a new one."""
    if not path.exists():
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
        written(path, f"{letters[:40]}-{secrets.token_hex(4)}")
    return path.read_text(encoding="utf-8").strip()


def written(path: Path, text: str) -> None:
    """Write a line that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(f"{text}\n", encoding="utf-8")
    temporary.replace(path)
