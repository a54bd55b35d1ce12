"""Bodies of requests: how many bytes are held at a time, and how much memory one may take once it is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.serve.batching import Overloaded
from rlhf_flow.types import Rollouts

if TYPE_CHECKING:
    import fastapi

AT_ONCE = 4  # bodies of the largest size that are held at the same time
# A body is small beside what Python makes of it: `{}` is 3 bytes with its comma, and 72 as an object in a list. Real
# batches have a bracket or a brace in 100 bytes and a comma in 16, if they send tokens too.
BYTES_PER_CONTAINER = 64
BYTES_PER_ITEM = 12


class TooMuch(ValueError):  # noqa: N818  # as requests are
    """A body that would take too much memory once it is parsed."""


class Bodies:
    """The bodies that are being read, parsed and scored."""

    def __init__(self, most: int) -> None:
        """`most`: bytes of one body."""
        self._most = most
        self._held = 0  # bytes
        self._parsing = asyncio.Lock()  # one at a time: a parsed body takes several times its size

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for one body, until its request is answered."""
        room = Room(self)
        try:
            yield room
        finally:
            self._held -= room.taken

    def take(self, size: int) -> None:
        """Raises Overloaded if too much is held already."""
        if self._held + size > AT_ONCE * self._most:
            raise Overloaded(f"{self._held} bytes of requests are held already")
        self._held += size

    async def parsed(self, body: bytes) -> Rollouts:
        """Raises TooMuch, and Malformed."""
        for sort, per, count in (
            ("lists and objects", BYTES_PER_CONTAINER, body.count(b"{") + body.count(b"[")),
            ("items", BYTES_PER_ITEM, body.count(b",")),
        ):
            if count > self._most // per:
                raise TooMuch(f"the body holds {count} {sort}, and max_body_mib allows {self._most // per}")
        async with self._parsing:
            return await asyncio.to_thread(wire.to_rollouts, body)


class Room:
    """What one body takes."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.taken = 0  # bytes

    async def read(self, request: fastapi.Request) -> bytes:
        """The body. Raises Overloaded if there is no room for it, and HTTPException if it is too large or too slow."""
        body = bytearray()
        async for chunk in request.stream():
            self._bodies.take(len(chunk))
            self.taken += len(chunk)
            body += chunk
        return bytes(body)
