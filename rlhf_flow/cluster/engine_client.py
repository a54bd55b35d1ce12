"""The engines of a run as the driver sees them: they share the prompts of a call, which are handed out one by one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rlhf_flow.cluster.supervisor import DeadWorkerError
from rlhf_flow.cluster.worker import FEED
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Event, Piece, Pool
from rlhf_flow.system.cancellation import check_cancelled
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.publish import copied

if TYPE_CHECKING:
    from ray import ObjectRefGenerator

AHEAD = 1.5  # prompts that an engine has, as a multiple of those that it generates at a time


@dataclass(frozen=True)
class RayEngine:
    """Replicas of an engine. Seeds belong to prompts, so the answers do not depend on the replica."""

    pool: Pool

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """As `Engine.generate`."""
        return Rollouts.gathered(prompts, self.stream(prompts, policy, draw, round=round, seed=seed), round)

    def stream(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `StreamingEngine.stream`. If a replica dies, the others sample the prompts that it had not finished."""
        with self.pool.busy:
            yield from _Round(self.pool, deque(prompts), policy, draw, {"round": round, "seed": seed}).stream()

    def close(self) -> None:
        self.pool.stop()


@dataclass
class _Feed:
    """A call of one engine, which goes on until the driver sends no more prompts."""

    group: WorkerGroup
    id: str
    prompts: dict[str, Prompt] = field(default_factory=dict)  # that it has not finished, by id
    sent: int = 0  # prompts
    ended: bool = False

    def add(self, prompts: Sequence[Prompt]) -> None:
        """Send prompts."""
        self.prompts |= {prompt.id: prompt for prompt in prompts}
        self.sent += len(prompts)
        self._send(prompts)

    def end(self) -> None:
        """There are no more prompts."""
        self.ended = True
        self._send(self.sent)

    def _send(self, arrived: Sequence[Prompt] | int) -> None:
        self.group.ranks[0].handle.add.options(concurrency_group=FEED).remote(self.id, arrived)


@dataclass
class _Round:
    """The prompts of one call of `RayEngine`, and the engines that work on them."""

    pool: Pool
    waiting: deque[Prompt]
    policy: Policy | Mixture
    draw: SamplingParams
    named: dict[str, Any]
    running: dict[ObjectRefGenerator, _Feed] = field(default_factory=dict)

    def stream(self) -> Iterator[Rollouts]:
        self.pool.slot.acquire()
        while self.waiting or self.running:
            check_cancelled()
            self._begin()
            for begun, event in self.pool.arrived({begun: feed.group for begun, feed in self.running.items()}):
                if isinstance(event, Piece):
                    piece: Rollouts = event.value
                    for prompt in piece.prompts:
                        del self.running[begun].prompts[prompt.id]
                    yield piece
                else:
                    self._end(self.running.pop(begun), event)
            self._hand_out()

    def _begin(self) -> None:
        """Begin a call on every free engine, if prompts wait."""
        busy = {id(feed.group) for feed in self.running.values()}
        for group in self.pool.groups:
            if self.waiting and id(group) not in busy and self.pool.is_up(group):
                self._start(group)
        self._hand_out()

    def _start(self, group: WorkerGroup) -> None:
        try:
            self.pool.slots = self.pool.slots or group.slots()  # not during a call, because it would wait for its end
        except DeadWorkerError as death:
            self.pool.drop(group, death)
            return
        feed = _Feed(group, uuid4().hex)
        self.running[group.feed(feed.id, (self._for(group), self.draw), self.named)] = feed

    def _hand_out(self) -> None:
        """Top up the engines, the emptiest first."""
        feeds = [feed for feed in self.running.values() if not feed.ended]
        limit = math.ceil(AHEAD * self.pool.slots / self.draw.n)
        new: dict[str, list[Prompt]] = {feed.id: [] for feed in feeds}
        while self.waiting and feeds:
            emptiest = min(feeds, key=lambda feed: len(feed.prompts) + len(new[feed.id]))
            if len(emptiest.prompts) + len(new[emptiest.id]) >= limit:
                break
            new[emptiest.id].append(self.waiting.popleft())
        for feed in feeds:
            if new[feed.id]:
                feed.add(new[feed.id])
            if not self.waiting:
                feed.end()

    def _end(self, feed: _Feed, event: Event) -> None:
        if isinstance(event, DeadWorkerError):
            self.waiting.extendleft(reversed(feed.prompts.values()))
            self.pool.drop(feed.group, event)

    def _for(self, group: WorkerGroup) -> Policy | Mixture:
        """The policy with weights that the engine can load, unless the learner has sent it these weights."""
        wanted = self.policy
        if isinstance(wanted, Mixture):
            policy = self._loadable(wanted.policy, group)
            return replace(wanted, policy=policy, reference=copied(wanted.reference))
        return self._loadable(wanted, group)

    def _loadable(self, policy: Policy, group: WorkerGroup) -> Policy:
        if group.sent == policy.sha256:
            return policy
        group.sent = ""  # the engine replaces them
        return copied(policy)
