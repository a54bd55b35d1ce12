"""Request bodies: limits on the bytes that are held at once, and on the memory of a parsed body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from rlhf_flow.scorer.remote import schema as wire
from rlhf_flow.serve.batching import Overloaded
from rlhf_flow.types import Rollouts

AT_ONCE = 4  # bodies of the largest size that may be held at once
# A Python object is much larger than its JSON: `{},` is 3 bytes and takes 72 in a list. Real batches have one bracket
# or brace in 100 bytes and, if they send tokens too, one comma in 16.
BYTES_PER_CONTAINER = 64
BYTES_PER_ITEM = 12


class TooMuch(ValueError):  # noqa: N818  # named like the HTTP status
    """A body that would take too much memory once it is parsed."""


class Bodies:
    """The bodies that are being read, parsed and scored. `max_body`: bytes of one body."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._held = 0  # bytes
        self._parsing = asyncio.Lock()  # one at a time: a parsed body takes several times its size

    @asynccontextmanager
    async def read(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The whole body; its bytes count as held until the block ends. Raises Overloaded if too many are held."""
        body = bytearray()
        try:
            async for chunk in chunks:
                if self._held + len(chunk) > AT_ONCE * self._max_body:
                    raise Overloaded(f"{self._held} bytes of requests are held already")
                self._held += len(chunk)
                body += chunk
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def parsed(self, body: bytes) -> Rollouts:
        """Raises TooMuch or Malformed."""
        for sort, size, count in (
            ("lists and objects", BYTES_PER_CONTAINER, body.count(b"{") + body.count(b"[")),
            ("items", BYTES_PER_ITEM, body.count(b",")),
        ):
            if count > self._max_body // size:
                raise TooMuch(f"the body holds {count} {sort}, and max_body_mib allows {self._max_body // size}")
        async with self._parsing:
            return await asyncio.to_thread(wire.to_rollouts, body)
