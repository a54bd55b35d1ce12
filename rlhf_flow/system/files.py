"""Files that a crash cannot leave half-written: flushed, renamed, hashed, and held by one writer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any


def lock(root: Path) -> int:
    """Take the folder for this process, by an advisory lock that dies with it; `run.lock` says who holds it.

    Raises ValueError where another process has it, or where nothing can be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as failure:
        raise ValueError(f"run_dir={root} cannot be written: {failure}. Choose another run_dir.") from failure
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 4096).decode(errors="replace").strip()
        os.close(descriptor)
        raise ValueError(
            f"run_dir={root} is in use by {holder or 'another process'}: a run has one writer. "
            "Wait for it, stop it, or choose another run_dir."
        ) from None
    os.ftruncate(descriptor, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, started {started}\n".encode(), 0)
    return descriptor


def check(path: Path, expected: str) -> None:
    """Raise ValueError where a committed file is missing, or is not what was committed."""
    if not path.exists():
        raise ValueError(f"{path} was committed but is missing. Restore it, or start again in another run_dir.")
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} does not match the hash it was committed with (sha256 {found[:12]}…, expected {expected[:12]}…): "
            "it was changed or damaged. Restore it, or start again in another run_dir."
        )


def sha256(path: Path) -> str:
    """Of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path) -> str:
    """Flush a file that is complete; return its sha256."""
    flush(path)
    return sha256(path)


def flush(path: Path) -> None:
    """Wait until a file (or the names in a folder) are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Raises ValueError, with the file's name, where it holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise ValueError(f"{path} is damaged: {failure}. Restore it, or start again in another run_dir.") from failure


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a small file by one rename: a reader sees the old text or the new."""
    aside = path.with_name(f".{path.name}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    flush(path.parent)
