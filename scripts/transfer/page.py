"""The table that is printed of each way"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlhf_flow.buckets import MIB

AIM = 0.3  # of a plain copy: put+get through the object store


@dataclass(frozen=True)
class Figures:
    """Of one publish and one load: seconds, by rank 0 and by the last engine; and bytes, by rank."""

    copy: float
    publish: float
    gather: float
    hash: float
    put: float
    probe: float
    load: float
    regather: float  # in load, of a learner that gives
    pass_on: float  # likewise
    fresh: float  # share of the pages that `put` wrote to and this process had not seen before
    published: Sequence[int]  # bytes that each rank took
    gave: Sequence[int]  # likewise
    arrived: bool  # at every engine

    @property
    def other(self) -> float:
        return self.publish - self.gather - self.hash - self.put - self.probe

    @property
    def gives(self) -> bool:
        """Whether the load is straight from the learner."""
        return self.pass_on > 0

    @property
    def moved(self) -> float:
        """Between the processes."""
        return self.load if self.gives else self.put + self.load


Seconds = Callable[[Figures], float]


def table(runs: Sequence[Figures], size: int) -> Iterator[str]:
    rows: Sequence[tuple[str, Seconds]] = (
        ("copy", lambda one: one.copy),
        ("publish", lambda one: one.publish),
        ("  gather", lambda one: one.gather),
        ("  hash", lambda one: one.hash),
        ("  put", lambda one: one.put),
        ("  probe", lambda one: one.probe),
        ("  other", lambda one: one.other),
        ("load", lambda one: one.load),
        ("  gather", lambda one: one.regather),
        ("  pass on", lambda one: one.pass_on),
        ("put+get", lambda one: one.moved),
        ("put+get+hash", lambda one: one.moved + one.hash),
        ("whole", lambda one: one.publish + one.load),
    )
    yield f"  {'':14} {'GB/s':>6} {'low':>6} {'high':>6}   share of copy"
    for name, seconds in rows:
        if all(seconds(one) for one in runs):
            rates = [size / seconds(one) / 1e9 for one in runs]
            aim = f"  (aim: {AIM})" if name == "put+get" else ""
            yield (
                f"  {name:14} {statistics.median(rates):6.2f} {min(rates):6.2f} {max(rates):6.2f}   "
                f"{_share(runs, seconds):.2f}{aim}"
            )


def first(runs: Sequence[Figures]) -> str:
    """Of those that found fresh pages."""
    return (
        f"  while the store's pages were fresh ({len(runs)} times): put {_share(runs, lambda one: one.put):.2f}, "
        f"load {_share(runs, lambda one: one.load):.2f}, put+get {_share(runs, lambda one: one.moved):.2f} of a copy"
    )


def memory(runs: Sequence[Figures], allowed: int) -> Iterator[str]:
    for what, of_runs in (("publish", [one.published for one in runs]), ("give", [one.gave for one in runs])):
        if any(map(any, of_runs)):
            peaks = ", ".join(f"{max(taken) / MIB:.1f}" for taken in zip(*of_runs, strict=True))
            yield f"  memory of the ranks while they {what}  {peaks} MiB above what they held, of {allowed / MIB:.1f}"


def _share(runs: Sequence[Figures], seconds: Seconds) -> float:
    return statistics.median(one.copy / seconds(one) for one in runs)
