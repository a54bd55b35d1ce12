"""The queue of requests: one thread calls the scorer, and requests that fit together are scored in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from rlhf_flow.protocols import Scorer
from rlhf_flow.types import Rollouts, Scored

Answer = TypeVar("Answer")


class Overloaded(RuntimeError):  # noqa: N818  # named like the HTTP status
    """The queue is full."""


@dataclass(eq=False)
class Request:
    """Rollouts that wait to be scored. Cancelling `scored` removes the request."""

    rollouts: Rollouts
    scored: asyncio.Future[Scored]
    arrived: float  # seconds, by the event loop's clock
    ids: frozenset[str] = field(init=False)  # of its responses

    def __post_init__(self) -> None:
        self.ids = frozenset(response.id for group in self.rollouts.responses for response in group)

    @property
    def shape(self) -> tuple[int, int]:
        """The round and N; only requests with equal shapes are scored together."""
        return self.rollouts.round, len(self.rollouts.responses[0]) if self.rollouts.responses else 0


class Queue:
    """Passes requests to the scorer in order of arrival. One thread opens, calls and closes the scorer."""

    def __init__(self, *, wait: float, max_batch: int, max_waiting: int) -> None:
        """`wait`: seconds that a request waits for others to be scored with; 0: each request is scored alone."""
        self._wait = wait
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._waiting: list[Request] = []
        self._arrival = asyncio.Event()
        self._batch_metrics = True  # whether the scorer returns metrics of a whole batch; assumed until its first reply

    def __len__(self) -> int:
        return len(self._active())

    def put(self, rollouts: Rollouts) -> asyncio.Future[Scored]:
        """A future of the scores or of the scorer's exception. Raises Overloaded."""
        if len(self) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests wait already")
        loop = asyncio.get_running_loop()
        request = Request(rollouts, loop.create_future(), arrived=loop.time())
        self._waiting.append(request)
        self._arrival.set()
        return request.scored

    async def work(self, opener: Callable[[], Scorer], ready: Callable[[], None]) -> None:
        """Open the scorer, call `ready`, score requests until cancelled, and close the scorer."""
        scorer = await self.in_thread(opener)
        ready()
        try:
            while True:
                await self._arrivals()
                if batch := self._next_batch():
                    await self._score(scorer, batch)
        finally:
            await self.in_thread(scorer.close)
            self._thread.shutdown()

    async def in_thread(self, call: Callable[[], Answer]) -> Answer:
        """The result of `call`, run in the scorer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _active(self) -> list[Request]:
        """The waiting requests; cancelled ones are removed."""
        self._waiting = [request for request in self._waiting if not request.scored.cancelled()]
        return self._waiting

    async def _arrivals(self) -> None:
        """Wait for a request and then, if requests may be scored together, for `wait` seconds after its arrival."""
        while not self._active():
            self._arrival.clear()
            await self._arrival.wait()
        if self._wait and not self._batch_metrics:
            left = self._waiting[0].arrived + self._wait - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, left))

    def _next_batch(self) -> list[Request]:
        """Take the first request and the later ones that can be scored with it."""
        batch: list[Request] = []
        left: list[Request] = []
        for request in self._active():
            (batch if not batch or self._fits(request, batch) else left).append(request)
        self._waiting = left
        return batch

    def _fits(self, request: Request, batch: Sequence[Request]) -> bool:
        """Whether the request can join the batch: the scorer needs distinct response ids."""
        return (
            self._wait > 0
            and not self._batch_metrics
            and request.shape == batch[0].shape
            and bool(request.rollouts.prompts)
            and sum(len(one.ids) for one in (*batch, request)) <= self._max_batch
            and all(request.ids.isdisjoint(one.ids) for one in batch)
        )

    async def _score(self, scorer: Scorer, batch: Sequence[Request]) -> None:
        several = [one.rollouts for one in batch]
        try:
            scored = await self.in_thread(lambda: scorer.score(merged(several)))
            parts = split(scored, several)
        except Exception as failure:  # any failure is the answer to its request
            if len(batch) > 1:
                await self._one_by_one(scorer, batch)
            elif not batch[0].scored.done():
                batch[0].scored.set_exception(failure)
            return
        if scored.rollouts.prompts:
            self._batch_metrics = bool(scored.batch_metrics)
        if self._batch_metrics and len(batch) > 1:  # the metrics must be those of each request
            await self._one_by_one(scorer, batch)
            return
        for one, part in zip(batch, parts, strict=True):
            if not one.scored.done():
                one.scored.set_result(part)

    async def _one_by_one(self, scorer: Scorer, batch: Sequence[Request]) -> None:
        for one in batch:
            await self._score(scorer, [one])


def merged(several: Sequence[Rollouts]) -> Rollouts:
    """One batch of several, in order."""
    if len(several) == 1:
        return several[0]
    prompts = tuple(prompt for rollouts in several for prompt in rollouts.prompts)
    responses = tuple(group for rollouts in several for group in rollouts.responses)
    return Rollouts(several[0].round, prompts, responses)


def split(scored: Scored, several: Sequence[Rollouts]) -> list[Scored]:
    """The scores of each of several rollouts that were scored in one batch without batch metrics.

    Counts are divided in proportion to the number of prompts; the shares add up to the count.
    """
    if len(several) == 1:
        return [scored]
    parts, start, total = [], 0, len(scored.rollouts.prompts)
    for rollouts in several:
        end = start + len(rollouts.prompts)
        parts.append(
            Scored(
                rollouts,
                utility=scored.utility[start:end],
                wins=scored.wins[start:end],
                aspects={name: values[start:end] for name, values in scored.aspects.items()},
                pair_flags={name: pairs[start:end] for name, pairs in scored.pair_flags.items()},
                counts={name: count * end // total - count * start // total for name, count in scored.counts.items()},
            )
        )
        start = end
    return parts
