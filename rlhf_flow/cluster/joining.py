"""Connect the driver to a Ray cluster: start one on this machine, or join one and wait for its nodes."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rlhf_flow.cluster.bundles import LOOPBACK

MIB = 1 << 20
STORE_MIB = 512  # of rows, calls and small policies
SPILL_AT = 0.8  # of an object store, above which Ray 2.60 writes objects to disk
POLL_SECONDS = 0.5
# Ray 2.60 gives a node 30 seconds to start, too few on a busy machine. Remove the retries once that limit can be set
# (ray/_private/node.py, raylet_start_wait_time_s).
LATE, ATTEMPTS = "timed out during startup", 3


def store_mib(policies: float) -> int:
    """MiB of an object store that holds so many bytes of policies without writing them to disk."""
    return STORE_MIB + math.ceil(policies / SPILL_AT / MIB)


def start(*, object_store_mib: int) -> None:
    """Start a cluster of one node on this machine and connect to it. Other machines cannot reach it."""
    with environment():
        for attempt in range(1, ATTEMPTS + 1):
            before = _children()
            try:
                _init(object_store_mib)
            except Exception as error:  # Ray raises a bare Exception
                if LATE not in str(error) or attempt == ATTEMPTS:
                    raise
                for process in _children() - before:  # Ray does not stop what it had started
                    with suppress(Exception):  # the process may have exited
                        process.kill()
            else:
                return


def join(address: str, *, nodes: int, seconds: float) -> None:
    """Connect to the cluster at `address` and wait until it has `nodes` nodes.

    Raises ValueError if it has fewer after `seconds`, and ConnectionError if there is no cluster. The driver is
    disconnected again after any error.
    """
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        _wait(nodes, seconds)
    except BaseException:
        ray.shutdown()
        raise


def alive() -> list[Mapping[str, Any]]:
    """Ray's description of each living node of the connected cluster."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def joined(number: int, nodes: int) -> str:
    return f"{number} of {nodes} nodes {'has' if number == 1 else 'have'} joined"


def _wait(nodes: int, seconds: float) -> None:
    until, number = time.monotonic() + seconds, len(alive())
    if number < nodes:
        print(f"{joined(number, nodes)}; waiting for the others, at most {seconds:g} s", flush=True)
    while number < nodes:
        if time.monotonic() > until:
            raise ValueError(
                f"cluster.nodes={nodes}: {joined(number, nodes)} within "
                f"cluster.fault_tolerance.start_seconds={seconds:g}. Fix: start the other nodes (ray status lists "
                f"them), raise cluster.fault_tolerance.start_seconds, or set cluster.nodes={number}."
            )
        time.sleep(POLL_SECONDS)
        number = len(alive())


def _children() -> set[Any]:
    import psutil  # installed with Ray

    return set(psutil.Process().children(recursive=True))


def _init(object_store_mib: int) -> None:
    import ray

    before = signal.getsignal(signal.SIGTERM)
    ray.init(
        "local",  # a new cluster, even if one runs on this machine
        # Logical CPUs: actors share the cores, so that two cores suffice for any number of ranks.
        num_cpus=max(64, os.cpu_count() or 1),
        object_store_memory=object_store_mib * MIB,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own handler would end the driver at once


@contextmanager
def environment() -> Iterator[None]:
    """Environment variables of a cluster that is started in the block, and of its workers. They are reset afterwards.

    A runtime_env would not do: Ray 2.60 then starts workers through a shell, which fails if the interpreter's path has
    a space. The variables keep the workers' servers on the loopback interface.
    """
    ours = {
        "TOKENIZERS_PARALLELISM": "false",
        "RLHF_FLOW_DRIVER": str(os.getpid()),  # `ps e` shows whose worker a process is
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": LOOPBACK,
        # Without this Ray's servers listen on every interface, even if 127.0.0.1 is given
        # (ray/_private/services.py, resolve_ip_for_localhost).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    from ray._private import ray_constants as constants

    # Ray 2.60 reads the last variable when it is imported, which may have been long ago.
    own, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:  # a node that this process starts later must be free to join others
        constants.ENABLE_RAY_CLUSTER = own
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
