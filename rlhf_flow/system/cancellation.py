"""Cooperative cancellation: long work polls `check_cancelled()`, which raises once the caller has cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_cancelled: ContextVar[Event | None] = ContextVar("cancelled", default=None)


class StoppedError(Exception):
    """The caller cancelled the work."""


@contextmanager
def cancellable(event: Event) -> Iterator[None]:
    """Inside the block, in this thread, `check_cancelled` raises once the event is set."""
    token = _cancelled.set(event)
    try:
        yield
    finally:
        _cancelled.reset(token)


def check_cancelled() -> None:
    """Raise StoppedError if the caller has cancelled."""
    event = _cancelled.get()
    if event is not None and event.is_set():
        raise StoppedError
