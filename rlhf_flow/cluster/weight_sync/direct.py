"""Published weights straight from the learner into the engines: a broadcast that overlaps with gathering them.

Nothing depends on it. An engine that was not up, or that failed, loads a copy (`HeldByLearner`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from rlhf_flow.cluster.supervisor import DeadWorkerError, FailedWorkerError
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Pool
from rlhf_flow.system.rendezvous import LOOPBACK
from rlhf_flow.types import Policy
from rlhf_flow.weights.broadcast import SENDER, Channel
from rlhf_flow.weights.publish import DetachedWeights

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass
class DirectSync:
    """The driver's side: a channel of the learner's rank 0 and the engines, which is kept while no process changes."""

    pool: Pool  # of engines
    ranks: int  # tensor-parallel processes of an engine
    local: bool  # all nodes are this machine
    device: str  # of learner and engines: cpu or cuda
    seconds: float  # longest wait of a process for another one
    channel: Channel | None = None  # of the sender
    members: tuple[str, ...] = ()  # the processes that have joined it
    sent: int = 0  # policies that engines received

    @contextmanager
    def receiving(self, learner: WorkerGroup) -> Iterator[Receiving | None]:
        """In this block the engines that are up wait for weights. None if there are none."""
        with self.pool.busy:
            engines = [group for group in self.pool.groups if group.up]
            yield self._begin(learner, engines) if engines and learner.up else None

    def _begin(self, learner: WorkerGroup, engines: list[WorkerGroup]) -> Receiving:
        members = tuple(group.ranks[0].heartbeat for group in (learner, *engines))
        if self.channel is None or members != self.members:
            address, port = learner.get(learner.ranks[0].handle.rendezvous.remote(), 0)
            size = 1 + self.ranks * len(engines)
            address = LOOPBACK if self.local else address
            self.channel = Channel(uuid4().hex, address, port, SENDER, size, self.seconds, self.device)
            self.members = members
        calls = []
        for number, group in enumerate(engines):
            group.sent = ""
            end = replace(self.channel, rank=1 + number * self.ranks)
            calls.append((group, group.ranks[0].handle.call.remote("receive", (end,), {})))
        return Receiving(self, self.channel, calls)


@dataclass
class Receiving:
    """A policy on its way."""

    sync: DirectSync
    channel: Channel
    calls: list[tuple[WorkerGroup, ObjectRef]]

    def finish(self, policy: Policy) -> None:
        """Tell the engines which policy they received. Those that received none are started again at their next call.

        Raises RuntimeError if an engine still holds other weights, and WorkerError after too many deaths.
        """
        complete = isinstance(policy.weights, DetachedWeights) and policy.weights.sent
        for group, call in self.calls:
            if self._has_ended(group, call) and complete:
                group.wait([group.ranks[0].handle.call.remote("received", (policy.sha256, policy.round), {})])
                group.sent = policy.sha256
                self.sync.sent += 1
            else:
                self.sync.channel = None
                group.stop()  # vLLM does not recover from half of the weights

    def _has_ended(self, group: WorkerGroup, call: ObjectRef) -> bool:
        """Whether the engine received all weights. Waits until it has, or failed."""
        try:
            group.wait([call])
        except Exception as failure:  # of whatever kind: it loads a copy
            if isinstance(failure, DeadWorkerError) and not isinstance(failure, FailedWorkerError):
                self.sync.pool.drop(group, failure)
            else:  # every receiver fails if one process is lost
                print(f"warning: {group.name} did not receive weights and is started again: {failure}", flush=True)
        else:
            return True
        return False
