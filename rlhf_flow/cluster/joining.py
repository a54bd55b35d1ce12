"""Joining a Ray cluster that is up, and waiting until as many of its nodes are there as a run was told to use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

LOOK_SECONDS = 0.5  # between two looks at the nodes


def join(address: str, *, nodes: int, seconds: float) -> None:
    """Connect this process; where that fails, or is interrupted, it is not connected.

    Raises ValueError where there are fewer `nodes` after `seconds`, and what Ray raises where nobody is at the address.
    """
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        _wait(nodes, seconds)
    except BaseException:
        ray.shutdown()
        raise


def alive() -> list[Mapping[str, Any]]:
    """What Ray says of each node that is there, of the cluster that this process is connected to."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def joined(there: int, nodes: int) -> str:
    """The words for so many of so many."""
    return f"{there} of {nodes} nodes {'has' if there == 1 else 'have'} joined"


def _wait(nodes: int, seconds: float) -> None:
    until, there = time.monotonic() + seconds, len(alive())
    if there < nodes:
        print(f"{joined(there, nodes)}; waiting for the others, at most {seconds:g} s", flush=True)
    while there < nodes:
        if time.monotonic() > until:
            raise ValueError(
                f"cluster.nodes must be at most what joins within cluster.fault_tolerance.start_seconds={seconds:g}, "
                f"got {nodes}: {joined(there, nodes)}. Start the others (ray status tells which are there), raise "
                f"cluster.fault_tolerance.start_seconds, or try cluster.nodes={there}."
            )
        time.sleep(LOOK_SECONDS)
        there = len(alive())
