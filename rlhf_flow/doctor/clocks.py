"""The clocks of the nodes of a cluster that the run would join: certificates, tokens and logs rely on them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping

from rlhf_flow.doctor.finding import Finding, ok, warning

APART = 1.0  # seconds, at most, between two clocks
WAIT = 120.0  # seconds, for all nodes to tell the time


def measured(address: str) -> Mapping[str, float] | None:
    """Seconds by which the clock of each node is ahead of the one here; None where they did not tell the time.

    By a process of its own: one that has joined a Ray cluster cannot be told to give up.
    """
    command = [sys.executable, "-m", "rlhf_flow.cluster.clocks", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
        offsets: Mapping[str, float] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return offsets


def judged(offsets: Mapping[str, float]) -> Iterator[Finding]:
    """Of the seconds by which each node's clock is ahead of the one here."""
    first, last = min(offsets, key=offsets.__getitem__), max(offsets, key=offsets.__getitem__)
    apart = offsets[last] - offsets[first]
    if apart > APART:
        yield warning(
            "network",
            f"the clock of {last} is {apart:.1f} s ahead of that of {first}: their logs do not fit together",
            "let all nodes follow one time server: systemctl start chronyd on each",
        )
    else:
        yield ok("network", f"the clocks of {len(offsets)} nodes differ by {apart:.3f} s at most")
