"""Disks: whether the run's folder can be written, has room, and is seen by all nodes; and where the hub's models go."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf_flow.capacity.process_memory import told
from rlhf_flow.doctor.finding import Finding, ok, problem, warning

MEMORY = ("tmpfs", "ramfs")
OF_ONE_NODE = ("/tmp", "/dev/shm", "/var/tmp")  # by custom, on every machine


def run_folder(run_dir: Path, *, joined: bool, mounts: Path = Path("/proc/mounts")) -> Iterator[Finding]:
    """`joined`: whether workers may be on other nodes, which read and write there too."""
    folder = run_dir.expanduser().absolute()
    there = existing(folder)
    if not there.is_dir():
        yield problem("disk", f"run_dir={run_dir}: {there} is a file", "name another run_dir")
        return
    if (reason := _refusal(there)) is not None:
        yield problem(
            "disk",
            f"run_dir={run_dir}: {there} cannot be written to ({reason})",
            f"chmod u+w {there}, or name another run_dir",
        )
        return
    kind = filesystem(there.resolve(), mounts)
    local = kind in MEMORY or any(folder.is_relative_to(place) for place in OF_ONE_NODE)
    if joined and local:
        yield problem(
            "disk",
            f"run_dir={run_dir} is on {'memory' if kind in MEMORY else 'a disk of this machine'}, and "
            "the workers of a joined cluster read it from their nodes",
            "put run_dir on a shared disk",
        )
    elif joined and not run_dir.is_absolute():
        yield warning(
            "disk",
            f"run_dir={run_dir} is relative: workers on other nodes need the same folder",
            f"run_dir={folder}, on a shared disk",
        )
    elif kind in MEMORY:
        yield warning(
            "disk",
            f"run_dir={run_dir} is on {kind}: it takes memory, and is gone after a restart",
            "put run_dir on a disk",
        )
    else:
        yield ok("disk", f"run_dir={run_dir} can be written")


def enough(run_dir: Path, most: float) -> Iterator[Finding]:
    """Room for `most` bytes, which a run may hold at once; a quarter more is wanted before nothing is said."""
    free = shutil.disk_usage(existing(run_dir.expanduser().absolute())).free
    if free < most:
        yield problem(
            "disk",
            f"run_dir={run_dir} has {told(free)} free, and the run may take {told(most)}",
            "a larger disk, checkpoint.keep=1, or a larger checkpoint.every",
        )
    elif free < 1.25 * most:
        yield warning(
            "disk",
            f"run_dir={run_dir} has {told(free)} free, and the run may take {told(most)}",
            "free some room, or checkpoint.keep=1",
        )
    else:
        yield ok("disk", f"{told(free)} free, of which the run may take {told(most)}")


def hub_cache(environment: Mapping[str, str], *, fetches: bool) -> Iterator[Finding]:
    """Where models of the hub are kept. `fetches`: whether the run names one that is not on this disk yet."""
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()
    there = existing(folder.absolute())
    if not fetches:
        yield ok("disk", f"hub cache {folder}: nothing to fetch")
    elif environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield problem(
            "disk",
            "HF_HUB_OFFLINE is set, and the run names a model that is not in the cache",
            "unset HF_HUB_OFFLINE, or give local folders",
        )
    elif not there.is_dir() or _refusal(there) is not None:
        yield problem("disk", f"the hub cache {folder} cannot be written to", "HF_HOME=a folder of yours")
    else:
        yield ok("disk", f"hub cache {folder}: {told(shutil.disk_usage(there).free)} free")


def existing(path: Path) -> Path:
    """The nearest that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def filesystem(path: Path, mounts: Path) -> str:
    """The type of the file system that a folder is on; empty where this machine does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    above = [
        (Path(line[1].replace("\\040", " ")), line[2])
        for line in lines
        if path.is_relative_to(line[1].replace("\\040", " "))
    ]
    return max(above, key=lambda mount: len(mount[0].parts))[1] if above else ""


def _refusal(folder: Path) -> str | None:
    """Why nothing can be written there; None where it can."""
    try:
        handle, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
    except OSError as error:
        return error.strerror or str(error)
    os.close(handle)
    Path(name).unlink()
    return None
