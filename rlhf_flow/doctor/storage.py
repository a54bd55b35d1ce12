"""Checks of disks: whether run_dir is writable, large enough and seen by all nodes, and where hub models are cached."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rlhf_flow.capacity.process_memory import size_text
from rlhf_flow.doctor.finding import Finding, ok, problem, warning

IN_MEMORY = ("tmpfs", "ramfs")
OF_ONE_NODE = ("/tmp", "/dev/shm", "/var/tmp")  # local to each machine by convention


def run_folder(run_dir: Path, *, joined: bool, mounts: Path = Path("/proc/mounts")) -> Finding:
    """`joined`: whether workers may run on other nodes, which read and write `run_dir` too."""
    folder = run_dir.expanduser().absolute()
    parent = existing(folder)
    if not parent.is_dir():
        return problem("disk", f"run_dir={run_dir}: {parent} is a file", "another run_dir")
    if (reason := _write_error(parent)) is not None:
        return problem(
            "disk",
            f"run_dir={run_dir}: {parent} is not writable ({reason})",
            f"chmod u+w {parent}, or choose another run_dir",
        )
    kind = filesystem(parent.resolve(), mounts)
    local = kind in IN_MEMORY or any(folder.is_relative_to(place) for place in OF_ONE_NODE)
    if joined and local:
        return problem(
            "disk",
            f"run_dir={run_dir} is {'in memory' if kind in IN_MEMORY else 'on a disk of this machine'}, and the "
            "workers of a joined cluster read it on their nodes",
            "run_dir=<a folder on a shared disk>",
        )
    if joined and not run_dir.is_absolute():
        return warning(
            "disk",
            f"run_dir={run_dir} is relative: workers on other nodes need the same folder",
            f"run_dir={folder}, on a shared disk",
        )
    if kind in IN_MEMORY:
        return warning(
            "disk",
            f"run_dir={run_dir} is on {kind}: it uses memory, and a restart deletes it",
            "run_dir=<a folder on a disk>",
        )
    return ok("disk", f"run_dir={run_dir} is writable")


def enough(run_dir: Path, most: float) -> Finding:
    """Whether `run_dir` has room for `most` bytes; a warning if less than 25 % would stay free."""
    free = shutil.disk_usage(existing(run_dir.expanduser().absolute())).free
    if free < most:
        return problem(
            "disk",
            f"run_dir={run_dir} has {size_text(free)} free, and the run may need {size_text(most)}",
            "a larger disk, checkpoint.keep=1, or a larger checkpoint.every",
        )
    if free < 1.25 * most:
        return warning(
            "disk",
            f"run_dir={run_dir} has {size_text(free)} free, and the run may need {size_text(most)}",
            "free some space, or checkpoint.keep=1",
        )
    return ok("disk", f"{size_text(free)} free; the run may need {size_text(most)}")


def hub_cache(environment: Mapping[str, str], *, downloads: bool) -> Finding:
    """The cache of hub models. `downloads`: whether the run names a model that is not on this disk yet."""
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()
    parent = existing(folder.absolute())
    if not downloads:
        return ok("disk", f"hub cache {folder}: nothing to download")
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return problem(
            "disk",
            "HF_HUB_OFFLINE is set, and the run names a model that is not in the cache",
            "unset HF_HUB_OFFLINE, or give local folders",
        )
    if not parent.is_dir() or _write_error(parent) is not None:
        return problem("disk", f"the hub cache {folder} is not writable", "export HF_HOME=<a folder of yours>")
    return ok("disk", f"hub cache {folder}: {size_text(shutil.disk_usage(parent).free)} free")


def existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def filesystem(path: Path, mounts: Path) -> str:
    """The type of the file system that holds a folder; empty if this machine has no `mounts`."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    points = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines]
    above = [(point, kind) for point, kind in points if path.is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0].parts))[1] if above else ""


def _write_error(folder: Path) -> str | None:
    """Why the folder is not writable; None if it is."""
    try:
        handle, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
    except OSError as error:
        return error.strerror or str(error)
    os.close(handle)
    Path(name).unlink()
    return None
