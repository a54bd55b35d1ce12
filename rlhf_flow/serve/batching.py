"""Requests that wait for the scorer, and the one thread that asks it: those that fit are scored together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from rlhf_flow.protocols import Scorer
from rlhf_flow.types import Prompt, Response, Rollouts, Scored

Answer = TypeVar("Answer")


class Overloaded(RuntimeError):  # noqa: N818  # it is no error of anybody's
    """As many requests wait as may."""


@dataclass(eq=False)
class Request:
    """Rollouts that wait to be scored. Whoever cancels `scored` is not waited for."""

    rollouts: Rollouts
    scored: asyncio.Future[Scored]
    arrived: float  # seconds, by the event loop's clock
    ids: frozenset[str] = field(init=False)  # of its responses

    def __post_init__(self) -> None:
        self.ids = frozenset(response.id for group in self.rollouts.responses for response in group)

    @property
    def shape(self) -> tuple[int, int]:
        """The round and N: only requests that have both in common are scored together."""
        return self.rollouts.round, len(self.rollouts.responses[0]) if self.rollouts.responses else 0


class Queue:
    """Hands requests to the scorer in the order in which they came, from one thread, which also opens and closes it."""

    def __init__(self, *, wait: float, max_batch: int, max_waiting: int) -> None:
        """`wait`: seconds that a request waits for company; 0: every request is scored alone."""
        self._wait = wait
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._waiting: list[Request] = []
        self._arrival = asyncio.Event()
        self._measures = True  # whether the scorer says something of all answers together; until it was asked, it may

    def __len__(self) -> int:
        return len(self._patient())

    def put(self, rollouts: Rollouts) -> asyncio.Future[Scored]:
        """The scores, once they are there; or what the scorer raised. Raises Overloaded."""
        if len(self) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests wait already")
        loop = asyncio.get_running_loop()
        request = Request(rollouts, loop.create_future(), arrived=loop.time())
        self._waiting.append(request)
        self._arrival.set()
        return request.scored

    async def work(self, opener: Callable[[], Scorer], ready: Callable[[], None]) -> None:
        """Open the scorer, say that it is ready, and score what comes until cancelled; then close it."""
        scorer = await self.in_thread(opener)
        ready()
        try:
            while True:
                await self._company()
                if batch := self._fitting():
                    await self._score(scorer, batch)
        finally:
            await self.in_thread(scorer.close)
            self._thread.shutdown()

    async def in_thread(self, call: Callable[[], Answer]) -> Answer:
        """What `call` returns, in the scorer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _patient(self) -> list[Request]:
        """Those that wait, without those that were given up."""
        self._waiting = [request for request in self._waiting if not request.scored.cancelled()]
        return self._waiting

    async def _company(self) -> None:
        """Wait for a request, and then, where it may have company, until it has waited long enough."""
        while not self._patient():
            self._arrival.clear()
            await self._arrival.wait()
        if self._wait and not self._measures:
            left = self._waiting[0].arrived + self._wait - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, left))

    def _fitting(self) -> list[Request]:
        """Take the first request, and those behind it that can be scored with it."""
        batch: list[Request] = []
        left: list[Request] = []
        for request in self._patient():
            (batch if not batch or self._fits(request, batch) else left).append(request)
        self._waiting = left
        return batch

    def _fits(self, request: Request, batch: Sequence[Request]) -> bool:
        """Whether the scorer can take it for one more part of the batch: it tells answers apart by their ids."""
        return (
            self._wait > 0
            and not self._measures
            and request.shape == batch[0].shape
            and bool(request.rollouts.prompts)
            and sum(len(one.ids) for one in (*batch, request)) <= self._max_batch
            and all(request.ids.isdisjoint(one.ids) for one in batch)
        )

    async def _score(self, scorer: Scorer, batch: Sequence[Request]) -> None:
        several = [one.rollouts for one in batch]
        try:
            scored = await self.in_thread(lambda: scorer.score(together(several)))
            parts = apart(scored, several)
        except Exception as failure:  # whatever it is, it is told to the one whose request it is
            if len(batch) > 1:
                await self._one_by_one(scorer, batch)
            elif not batch[0].scored.done():
                batch[0].scored.set_exception(failure)
            return
        if scored.rollouts.prompts:
            self._measures = bool(scored.batch_metrics)
        if self._measures and len(batch) > 1:  # said of all together, and it must be said of each
            await self._one_by_one(scorer, batch)
            return
        for one, part in zip(batch, parts, strict=True):
            if not one.scored.done():
                one.scored.set_result(part)

    async def _one_by_one(self, scorer: Scorer, batch: Sequence[Request]) -> None:
        for one in batch:
            await self._score(scorer, [one])


def together(several: Sequence[Rollouts]) -> Rollouts:
    """One batch of several, in order."""
    if len(several) == 1:
        return several[0]
    prompts: list[Prompt] = []
    responses: list[tuple[Response, ...]] = []
    for rollouts in several:
        prompts += rollouts.prompts
        responses += rollouts.responses
    return Rollouts(several[0].round, tuple(prompts), tuple(responses))


def apart(scored: Scored, several: Sequence[Rollouts]) -> list[Scored]:
    """The scores of each of several that were scored together, and which measured nothing together.

    A count was made of all of them, and is shared out by the number of prompts: the shares add up to it.
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
