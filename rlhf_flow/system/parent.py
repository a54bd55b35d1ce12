"""Processes that end when the process that started them ends, in any way: also killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shared_stdin() -> Iterator[int]:
    """A file descriptor to start children with as their stdin. It reaches its end after this block or this process.

    Start each child with `start_new_session=True`, and call `end_with_parent` in it.
    """
    read, write = os.pipe()  # neither is inherited but as a child's stdin
    try:
        yield read
    finally:
        os.close(write)
        os.close(read)


def end_with_parent() -> None:
    """End this process and its process group with SIGTERM once stdin reaches its end."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
