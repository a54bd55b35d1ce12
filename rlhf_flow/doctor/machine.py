"""The machine: GPUs, shared memory, limits of a process, the clock."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.capacity.process_memory import MIB, told
from rlhf_flow.doctor.finding import Finding, ok, problem, warning

OPEN_FILES = 4096  # Ray opens a few hundred for each worker
PROCESSES = 2048
FIRST_DAY = 1_704_067_200  # 2024-01-01: a clock before that has never been set
TICK = 0.2  # seconds
DRIFT = 0.5  # of them, at most, between two clocks


@dataclass(frozen=True)
class Gpus:
    """What torch and the driver say."""

    build: str | None  # CUDA that torch was built with; None: a build for processors
    driver: bool  # whether the machine has NVIDIA's driver
    usable: int  # GPUs that torch can use
    visible: str | None  # CUDA_VISIBLE_DEVICES
    nccl: bool  # whether torch has it


def gpus_here() -> Gpus:
    import torch

    return Gpus(
        build=torch.version.cuda,
        driver=Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None,
        usable=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        nccl=torch.distributed.is_available() and torch.distributed.is_nccl_available(),
    )


def gpus(found: Gpus, *, ranks: int) -> Iterator[Finding]:
    if found.driver and found.build is None:
        yield problem(
            "gpus",
            "the machine has a GPU's driver, and torch is a build for processors",
            "install torch for CUDA: pip install torch, without +cpu",
        )
    elif found.driver and not found.usable and found.visible is not None:
        yield problem("gpus", f"CUDA_VISIBLE_DEVICES={found.visible!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    elif found.driver and not found.usable:
        yield problem(
            "gpus",
            f"torch is built for CUDA {found.build}, and the driver gives it no GPU",
            "update the driver to one for that CUDA (nvidia-smi says which it knows), or take an older torch",
        )
    elif found.build is not None and not found.usable:
        yield warning(
            "gpus",
            f"torch is built for CUDA {found.build}, and there is no GPU: everything runs on the CPU",
            "take a machine with a GPU, or torch's smaller build for processors",
        )
    elif found.usable and ranks > 1 and not found.nccl:
        yield problem("gpus", f"{ranks} ranks on GPUs talk by NCCL, which this torch has not", "install torch for CUDA")
    else:
        yield ok(
            "gpus", f"{found.usable} (CUDA {found.build})" if found.usable else "none; torch is built for processors"
        )


def limits() -> Iterator[Finding]:
    """Of open files and processes, as this process has them; its children inherit them."""
    for name, which, least, flag in (
        ("open files", resource.RLIMIT_NOFILE, OPEN_FILES, "-n"),
        ("processes", resource.RLIMIT_NPROC, PROCESSES, "-u"),
    ):
        soft, hard = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY and soft < least:
            can = hard == resource.RLIM_INFINITY or hard >= least
            more = "" if can else f", and raise the hard limit ({hard}) in /etc/security/limits.conf"
            yield warning("limits", f"{soft} {name} at most; Ray wants {least}", f"ulimit {flag} {least}{more}")
        else:
            yield ok("limits", f"{name} {'without limit' if soft == resource.RLIM_INFINITY else soft}")


def shared_memory(wanted: int, folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Whether Ray's object store fits where it puts it. `wanted` in bytes."""
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    if free < wanted:
        yield problem(
            "machine",
            f"{folder} has {told(free)} free, and cluster.object_store_mib asks for {told(wanted)}",
            f"cluster.object_store_mib={max(80, int(free * 0.8) // MIB)}, or a container with "
            f"--shm-size={-(-wanted // (1 << 30)) + 1}g",
        )
    else:
        yield ok("machine", f"{folder} has {told(free)} free")


def clock(now: float | None = None) -> Iterator[Finding]:
    """Whether the wall clock was set, and goes as fast as the monotonic one."""
    wall, steady = time.time(), time.monotonic()
    if (wall if now is None else now) < FIRST_DAY:
        yield problem(
            "machine",
            "the clock was never set: it is before 2024, so certificates and tokens fail",
            "set it: systemctl start chronyd, or date -s",
        )
        return
    time.sleep(TICK)
    gone = (time.time() - wall) - (time.monotonic() - steady)
    if abs(gone) > DRIFT * TICK:
        yield warning(
            "machine", f"the wall clock jumped by {gone:.2f} s within {TICK} s", "let one daemon alone set it"
        )
    else:
        yield ok("machine", "the clock goes")
