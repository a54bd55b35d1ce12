"""The printed table of each transport"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlhf_flow.weights.buckets import MIB

AIM = 0.3  # target share of a plain copy, for put+get through the object store


@dataclass(frozen=True)
class Figures:
    """One publish and one load: seconds of rank 0 and of the slowest engine, and bytes of each rank."""

    copy: float
    publish: float
    gather: float
    hash: float
    put: float
    probe: float
    load: float
    fresh: bool  # whether `put` wrote to many pages that its process had not touched before
    published: Sequence[int]  # bytes that each rank took
    arrived: bool  # at every engine

    @property
    def other(self) -> float:
        return self.publish - self.gather - self.hash - self.put - self.probe

    @property
    def moved(self) -> float:
        """Seconds of the transfer between the processes."""
        return self.put + self.load


Seconds = Callable[[Figures], float]
ROWS: Sequence[tuple[str, Seconds]] = (
    ("copy", lambda one: one.copy),
    ("publish", lambda one: one.publish),
    ("  gather", lambda one: one.gather),
    ("  hash", lambda one: one.hash),
    ("  put", lambda one: one.put),
    ("  probe", lambda one: one.probe),
    ("  other", lambda one: one.other),
    ("load", lambda one: one.load),
    ("put+get", lambda one: one.moved),
    ("put+get+hash", lambda one: one.moved + one.hash),
    ("whole", lambda one: one.publish + one.load),
)


def table(runs: Sequence[Figures], size: int) -> Iterator[str]:
    fresh = [one for one in runs if one.fresh]
    known = [one for one in runs if not one.fresh] or fresh
    yield f"  {f'{len(known)} repetitions':14} {'GB/s':>6} {'low':>6} {'high':>6}   share of copy"
    for name, seconds in ROWS:
        if all(seconds(one) for one in known):
            rates = [size / seconds(one) / 1e9 for one in known]
            aim = f"  (aim by object_store: {AIM})" if name == "put+get" else ""
            yield (
                f"  {name:14} {statistics.median(rates):6.2f} {min(rates):6.2f} {max(rates):6.2f}   "
                f"{_share(known, seconds):.2f}{aim}"
            )
    if fresh:
        yield (
            f"  into fresh pages, {len(fresh)} times: put {_share(fresh, lambda one: one.put):.2f}, "
            f"load {_share(fresh, lambda one: one.load):.2f}, put+get {_share(fresh, lambda one: one.moved):.2f}"
        )


def memory(one: Figures, allowed: int) -> Iterator[str]:
    if any(one.published):
        told = ", ".join(f"{each / MIB:.1f}" for each in one.published)
        yield f"  MiB that the ranks take to publish   {told}; a bucket and the largest layer: {allowed / MIB:.1f}"


def _share(runs: Sequence[Figures], seconds: Seconds) -> float:
    return statistics.median(one.copy / seconds(one) for one in runs)
