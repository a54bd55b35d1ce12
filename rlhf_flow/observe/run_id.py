"""The id of a run in the library of an observer: the same for all its starts."""

from __future__ import annotations

import secrets
from pathlib import Path

from rlhf_flow.system.files import write_text


def run_id(path: Path, name: str) -> str:
    """The id in the file `path`, which the first start writes. A moved folder keeps it; a new folder gets a new one."""
    if not path.exists():
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
        written(path, f"{letters[:40]}-{secrets.token_hex(4)}")
    return path.read_text(encoding="utf-8").strip()


def written(path: Path, text: str) -> None:
    """Write a file of one line, whose folder may be missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{text}\n")
