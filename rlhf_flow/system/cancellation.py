"""Work that nobody waits for any more: whoever does it asks now and then, and ends where that is so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_told: ContextVar[Event | None] = ContextVar("stop", default=None)


class StoppedError(Exception):
    """The work was given up."""


@contextmanager
def stoppable(event: Event) -> Iterator[None]:
    """In the block, `heed` raises once the event is set. Of this thread alone."""
    token = _told.set(event)
    try:
        yield
    finally:
        _told.reset(token)


def heed() -> None:
    """Raise StoppedError where this work was given up."""
    event = _told.get()
    if event is not None and event.is_set():
        raise StoppedError
