"""Work in a thread beside a block of code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlhf_flow.system.cancellation import cancellable

GRACE = 30.0  # seconds that cancelled work may take to notice it


@contextmanager
def in_thread(work: Callable[[], None], name: str) -> Iterator[Callable[[], None]]:
    """Run `work` in a thread during the block, and wait for it at the end. Yields a function that raises its error.

    The work is cancelled if the block fails or the wait is interrupted. Raises the error of the block, otherwise that
    of the work.
    """
    failures: list[BaseException] = []
    cancelled = threading.Event()

    def run() -> None:
        try:
            with cancellable(cancelled):
                work()
        except BaseException as failure:  # raised again in the thread of the block
            failures.append(failure)

    def check() -> None:
        if failures:
            raise failures[0]

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield check
        thread.join()
    except BaseException:
        cancelled.set()
        thread.join(GRACE)
        raise
    check()
