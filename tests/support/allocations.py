"""The memory that torch allocates on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


def peak(work: Callable[[], object]) -> int:
    """The most bytes of CPU tensors that `work` holds at once, beyond those that exist before."""
    return max(accumulate(_changes(work)), default=0)


def left(work: Callable[[], object]) -> int:
    """The bytes of CPU tensors that exist after `work` and not before."""
    return sum(_changes(work))


def _changes(work: Callable[[], object]) -> list[int]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    assert recorded.profiler is not None
    events = [one for one in recorded.profiler.kineto_results.events() if one.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda each: each.start_ns())]
