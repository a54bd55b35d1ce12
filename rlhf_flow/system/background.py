"""Work in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlhf_flow.system.cancellation import cancellable

GRACE = 30.0  # seconds


class Background:
    """Work that runs in a thread until `wait` or `cancel`."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._failure: BaseException | None = None
        self._cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Raise the error of the work, if it has failed."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Wait until the work has ended. Raises its error."""
        self.thread.join()
        self.check()

    def stop(self) -> None:
        """Let the work end, then cancel it if it has not ended after `GRACE` seconds. Raises no error of the work."""
        self.thread.join(GRACE)
        self.cancel()

    def cancel(self) -> None:
        """Cancel the work, and wait until it notices."""
        self._cancelled.set()
        self.thread.join(GRACE)

    def _run(self) -> None:
        try:
            with cancellable(self._cancelled):
                self._work()
        except BaseException as failure:  # raised again in the thread that waits
            self._failure = failure


@contextmanager
def in_thread(work: Callable[[], None], name: str) -> Iterator[Callable[[], None]]:
    """Run `work` in a thread during the block, and wait for it at the end. Yields a function that raises its error.

    The work is cancelled if the block fails or the wait is interrupted. Raises the error of the block, otherwise that
    of the work.
    """
    background = Background(work, name)
    try:
        yield background.check
        background.wait()
    except BaseException:
        background.cancel()
        raise
