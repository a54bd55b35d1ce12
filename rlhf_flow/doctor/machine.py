"""Checks of the machine: GPUs, RDMA, shared memory, process limits, the clock."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.capacity.process_memory import MIB, size_text
from rlhf_flow.doctor.finding import Finding, ok, problem, warning
from rlhf_flow.system import machine as here

OPEN_FILES = 4096  # Ray opens a few hundred for each worker
PROCESSES = 2048
FIRST_DAY = 1_704_067_200  # 2024-01-01: an earlier clock has never been set


@dataclass(frozen=True)
class Gpus:
    """GPUs as torch and the driver report them."""

    build: str | None  # the CUDA version that torch was built with; None: a CPU build
    driver: bool  # whether NVIDIA's driver is installed
    usable: int  # GPUs that torch can use
    visible: str | None  # CUDA_VISIBLE_DEVICES
    nccl: bool  # whether torch has NCCL


def gpus_here() -> Gpus:
    import torch

    return Gpus(
        build=torch.version.cuda,
        driver=Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None,
        usable=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        nccl=torch.distributed.is_available() and torch.distributed.is_nccl_available(),
    )


def gpus(found: Gpus, *, ranks: int) -> Finding:
    """Whether driver, torch and the number of learner ranks go together."""
    if found.driver and found.build is None:
        return problem(
            "gpus",
            "NVIDIA's driver is installed, but torch is a CPU build",
            "pip install --force-reinstall torch, without the index of CPU builds",
        )
    if found.driver and not found.usable and found.visible is not None:
        return problem("gpus", f"CUDA_VISIBLE_DEVICES={found.visible!r} hides all GPUs", "unset CUDA_VISIBLE_DEVICES")
    if found.driver and not found.usable:
        return problem(
            "gpus",
            f"torch is built for CUDA {found.build}, but finds no GPU with this driver",
            "update the driver to one for that CUDA (nvidia-smi shows its version), or install an older torch",
        )
    if found.build is not None and not found.usable:
        return warning(
            "gpus",
            f"torch is built for CUDA {found.build}, but there is no GPU: everything runs on the CPU",
            "use a machine with a GPU, or torch's smaller CPU build",
        )
    if found.usable and ranks > 1 and not found.nccl:
        return problem(
            "gpus",
            f"learner.ranks={ranks} on GPUs needs NCCL, which this torch lacks",
            "pip install --force-reinstall torch",
        )
    return ok("gpus", f"{found.usable} (CUDA {found.build})" if found.usable else "none; torch is a CPU build")


def precision(found: Gpus, dtypes: Mapping[str, str]) -> Iterator[Finding]:
    """A warning for each key of a scorer's dtype that leaves the GPU's fast arithmetic unused."""
    for key, dtype in dtypes.items():
        if found.usable and dtype == "float32":
            yield warning("gpus", f"{key}=float32: a GPU computes bfloat16 several times faster", f"{key}=bfloat16")


def limits() -> Iterator[Finding]:
    """Limits of open files and processes of this process, which its children inherit."""
    for name, which, least, flag in (
        ("open files", resource.RLIMIT_NOFILE, OPEN_FILES, "-n"),
        ("processes", resource.RLIMIT_NPROC, PROCESSES, "-u"),
    ):
        soft, hard = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY and soft < least:
            allowed = hard == resource.RLIM_INFINITY or hard >= least
            more = "" if allowed else f", and raise the hard limit ({hard}) in /etc/security/limits.conf"
            yield warning("limits", f"at most {soft} {name}; Ray needs {least}", f"ulimit {flag} {least}{more}")
        else:
            yield ok("limits", f"{name}: {'unlimited' if soft == resource.RLIM_INFINITY else soft}")


def rdma(devices: Path = Path("/dev/infiniband")) -> Iterator[Finding]:
    """Whether NCCL can use the RDMA devices of this machine. If not, it uses TCP and does not say so."""
    if not any(devices.glob("uverbs*")):
        return
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        yield warning(
            "network",
            "there are RDMA devices, but no libibverbs: NCCL uses TCP between nodes",
            "apt-get install libibverbs1 ibverbs-providers",
        )
    most, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if most != resource.RLIM_INFINITY:
        yield warning(
            "limits",
            f"at most {size_text(most)} of locked memory: NCCL cannot pin memory for RDMA, and uses TCP between nodes",
            "ulimit -l unlimited; for containers --ulimit memlock=-1, or LimitMEMLOCK=infinity in containerd's unit",
        )
    else:
        yield ok("limits", "locked memory: unlimited")


def shared_memory(wanted: int, *, given: bool) -> Iterator[Finding]:
    """Whether Ray's object store fits into shared memory. `wanted`: bytes; `given`: by cluster.object_store_mib."""
    free = here.shared_memory()
    if free is None:
        return
    if free >= wanted:
        yield ok("machine", f"{here.SHARED_MEMORY} has {size_text(free)} free")
        return
    why = "cluster.object_store_mib asks for" if given else "the object store of a round's policies takes"
    size = f"{-(-wanted // (1 << 30)) + 1}g"
    smaller = f"cluster.object_store_mib={max(80, int(free * 0.8) // MIB)}"
    remedy = smaller if given else f"mount -o remount,size={size} {here.SHARED_MEMORY}"
    yield problem(
        "machine",
        f"{here.SHARED_MEMORY} has {size_text(free)} free, and {why} {size_text(wanted)}",
        f"{remedy}, or a container with --shm-size={size}",
    )


def clock(now: float | None = None) -> Finding:
    """Whether the clock is set. `now` in seconds since the epoch."""
    if (time.time() if now is None else now) < FIRST_DAY:
        return problem(
            "machine",
            "the clock is not set: it shows a date before 2024, so TLS certificates and tokens fail",
            "set it: systemctl start chronyd, or date -s",
        )
    return ok("machine", "the clock is set")
