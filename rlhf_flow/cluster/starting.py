"""A Ray cluster of a run's own: one node, on this machine, that no other machine can reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rlhf_flow.cluster.hiring import LOOPBACK

# Ray (2.60) gives a node 30 seconds to start, which it misses on a machine that is busy with something else. This can
# go once Ray's limit can be set (ray/_private/node.py, raylet_start_wait_time_s).
LATE, TRIES = "timed out during startup", 3


def start(*, object_store_mib: int) -> None:
    """A cluster of one node, on this machine, to which this process is connected."""
    with environment():
        for attempt in range(1, TRIES + 1):
            before = _children()
            try:
                _init(object_store_mib)
            except Exception as error:  # Ray's own class of it says no more
                if LATE not in str(error) or attempt == TRIES:
                    raise
                for process in _children() - before:  # Ray forgets what it had started
                    with suppress(Exception):  # it has ended meanwhile
                        process.kill()
            else:
                return


def _children() -> set[Any]:
    import psutil  # Ray, which is imported by now, brings it along

    return set(psutil.Process().children(recursive=True))


def _init(object_store_mib: int) -> None:
    import ray

    ray.init(
        "local",  # a cluster of its own, also beside one that runs here already
        # Logical CPUs: actors share the machine's cores, so that two cores suffice for any number of ranks.
        num_cpus=max(64, os.cpu_count() or 1),
        object_store_memory=object_store_mib << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )


@contextmanager
def environment() -> Iterator[None]:
    """Of a cluster while it is started here, and so of its workers' processes; not of what we start later.

    Not by a runtime_env: Ray starts workers that have one through a shell, and fails where the interpreter's path
    holds a space (ray 2.60). What the workers of a run on one machine listen on, no other machine can reach.
    """
    ours = {
        "TOKENIZERS_PARALLELISM": "false",
        "RLHF_FLOW_DRIVER": str(os.getpid()),  # `ps e` tells whose worker a process is
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": LOOPBACK,
        # Without this Ray's servers listen on every interface, also where 127.0.0.1 is given by name
        # (ray/_private/services.py, resolve_ip_for_localhost).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    from ray._private import ray_constants as constants

    # Ray (2.60) reads the last of them when it is imported, which may have been long ago.
    own, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:  # else a node that is started from here later may not join others
        constants.ENABLE_RAY_CLUSTER = own
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
