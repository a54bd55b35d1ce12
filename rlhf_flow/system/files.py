"""Atomic writes of files and folders, hashes, and the lock of a run's folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def lock(root: Path) -> int:
    """Take an advisory lock on the folder, which is released when this process ends. Returns its file descriptor.

    `run.lock` names the holder. Raises ValueError if another process holds it, or if the folder is not writable.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as failure:
        raise ValueError(f"run_dir={root} cannot be written: {failure}. Fix: choose another run_dir.") from failure
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 4096).decode(errors="replace").strip()
        os.close(descriptor)
        raise ValueError(
            f"run_dir={root} is in use by {holder or 'another process'}. "
            "Fix: wait for it, stop it, or choose another run_dir."
        ) from None
    os.ftruncate(descriptor, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, started {started}\n".encode(), 0)
    return descriptor


def check(path: Path, expected: str) -> None:
    """Raise ValueError if a committed file is missing or does not match its hash."""
    if not path.exists():
        raise ValueError(f"{path}: a committed file is missing. Fix: restore it, or start again in another run_dir.")
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} does not match the hash it was committed with (sha256 {found[:12]}…, expected {expected[:12]}…). "
            "Fix: restore it, or start again in another run_dir."
        )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path) -> str:
    """Flush a complete file to disk; return its sha256."""
    flush(path)
    return sha256(path)


def flush(path: Path) -> None:
    """fsync a file, or the entries of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Raises ValueError, with the file's name, if it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise ValueError(
            f"{path} is damaged: {failure}. Fix: restore it, or start again in another run_dir."
        ) from failure


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file by one rename: readers see the old text or the new."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` by one rename at the end: a folder that exists is complete.

    What a killed process left unfinished is removed. Raises ValueError if `path` has files.
    """
    if path.exists() and any(path.iterdir()):
        raise ValueError(f"{path} is not empty. Fix: name a folder that does not exist yet.")
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
