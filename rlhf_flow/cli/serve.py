"""`rlhf-flow serve`: load a scorer and serve it until a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from rlhf_flow.config.schema import part_name
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.remote.schema import Health
from rlhf_flow.serve.app import MIB, application
from rlhf_flow.serve.batching import Queue
from rlhf_flow.serve.config import ServeConfig, fingerprint
from rlhf_flow.system.http_guard import names, uvicorn_server
from rlhf_flow.system.loopback import address, listening
from rlhf_flow.system.optional_deps import require

if TYPE_CHECKING:
    import uvicorn

HEAD_SECONDS = 10.0  # for the headers of a request to arrive
LAST_SECONDS = 30.0  # for requests in progress when the server stops


def serve(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises ValueError for a mistake in the configuration, and errors of the scorer."""
    for package in ("fastapi", "uvicorn"):
        require(package, part="rlhf-flow serve", extras=("serve",), instead="the scorer inside the run")
    config.scorer.check()
    token = config.expected()
    with listening(config.host, config.port) as listener:
        asyncio.run(_serve(config, token, listener))


async def _serve(config: ServeConfig, token: str | None, listener: socket.socket) -> None:
    name = part_name("scorer", config.scorer)
    queue = Queue(wait=config.batch_wait_ms / 1000, max_batch=config.max_batch, max_waiting=config.max_waiting)
    opened: list[Health] = []  # empty while the scorer is loading

    def opener() -> Scorer:
        scorer: Scorer = config.scorer.open(config.place)
        opened.append(Health(name, fingerprint(config.scorer), config.scorer.intransitive, waiting=0))
        return scorer

    def health() -> Health | None:
        return replace(opened[0], waiting=len(queue)) if opened else None

    def ready() -> None:
        print(f"serving scorer={name} ({opened[0].fingerprint[:12]}) at {address(listener)}", flush=True)

    app = application(
        queue,
        health,
        token=token,
        names=names(config.host, config.names),
        max_body=config.max_body_mib * MIB,
        seconds=config.body_seconds,
    )
    server = uvicorn_server(app, head=HEAD_SECONDS, grace=LAST_SECONDS)
    working = asyncio.create_task(queue.work(opener, ready))
    working.add_done_callback(lambda _: _stop(server))
    with _stopped_by_signals(server):
        await server.serve(sockets=[listener])
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Replace Python's signal handlers, to which uvicorn passes a signal after it stops."""

    def stop(number: int, frame: FrameType | None) -> None:
        _stop(server)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
