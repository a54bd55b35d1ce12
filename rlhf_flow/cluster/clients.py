"""Blocking clients with the methods of the worker that they call on the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import ref

from rlhf_flow.cluster.gpu_sharing import GpuSlot
from rlhf_flow.cluster.replay_log import CallLog, remove_partial_output
from rlhf_flow.cluster.startup import open_all
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.weight_sync.direct import DirectSync
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Call, Pool
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.scorer.chunking import in_pieces
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy, Rollouts, Scored
from rlhf_flow.weights.broadcast import Channel
from rlhf_flow.weights.publish import DetachedWeights, HeldByLearner, copied
from rlhf_flow.weights.source import Weights

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RayScorer:
    """Replicas of a scorer. Tasks have a fixed size, because a model's scores depend on its batches by rounding."""

    pool: Pool
    prompts_per_task: int

    def score(self, rollouts: Rollouts) -> Scored:
        return in_pieces(self._score, rollouts, self.prompts_per_task)

    def _score(self, tasks: Sequence[Rollouts]) -> list[Scored]:
        return self.pool.run([Call("score", (task,)) for task in tasks])

    def close(self) -> None:
        self.pool.stop()

    @property
    def closed(self) -> bool:
        return self.pool.stopped


@dataclass(frozen=True)
class RayLearner:
    """The ranks of a learner. If one dies, all are started again and replay the call log."""

    group: WorkerGroup
    slot: GpuSlot
    supervisor: Supervisor
    direct: DirectSync | None = None  # None: weights go through the object store
    log: CallLog = field(default_factory=CallLog)
    calling: AbstractContextManager[object] = field(default_factory=RLock)  # a checkpoint is written in a thread
    held: list[ref[HeldByLearner]] = field(default_factory=list)  # weights that may have no copy yet, at most one

    def start(self, policy: Policy) -> None:
        self._call("start", policy)

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._call("logps", responses, wanted, policy)

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._call("spread", responses, wanted, policy)

    def steps(self, lesson: TrainingRound) -> int:
        return self._call("steps", lesson)

    def computes_anchor(self, lesson: TrainingRound, sha256: str) -> bool:
        return self._call("computes_anchor", lesson, sha256)

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        return self._call("update", lesson, first, last)

    def publish(self, name: str, round: int) -> Policy:
        if self.direct is None:
            return self._call("publish", name, round)
        with self.direct.receiving(self.group) as receiving:
            if receiving is None:
                return self._call("publish", name, round)
            policy: Policy = self._call("publish", name, round, channel=receiving.channel)
            receiving.finish(policy)
        if not isinstance(policy.weights, DetachedWeights):
            return policy
        weights = HeldByLearner(policy.weights.groups, partial(self._copied, policy))
        self.held[:] = [ref(weights)]
        return replace(policy, weights=weights)

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return self._call("average", name, round, [(copied(policy), share) for policy, share in terms])

    def save_policy(self, folder: Path, policy: Policy | None = None) -> Mapping[str, str]:
        return self._call("save_policy", folder, policy)

    def save_state(self, folder: Path) -> Mapping[str, str]:
        return self._call("save_state", folder)

    def load_state(self, folder: Path) -> None:
        self._call("load_state", folder)

    def close(self) -> None:
        self.group.stop()

    @property
    def closed(self) -> bool:
        return not self.group.ranks

    def _copied(self, policy: Policy) -> Weights:
        """The weights that the learner holds, in the object store."""
        copy: Policy = self._call("publish", policy.name, policy.round)
        assert copy.sha256 == policy.sha256, "the learner changed its weights before they were copied"
        return copy.weights

    def _keep(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Copy published weights that have no copy, before a call that changes them, if they are still in use."""
        changes = method in ("update", "load_state") or (method == "start" and arguments[0].sha256 != self.log.held)
        for weights in [weights for each in self.held if (weights := each()) is not None] if changes else ():
            weights.copy()
            self.held.clear()

    def _call(self, method: str, *arguments: Any, channel: Channel | None = None) -> Any:
        """Raises what a rank raised, or WorkerError after too many deaths. `channel`: for published weights."""
        with self.calling:
            self._keep(method, arguments)
            while True:
                try:
                    self.slot.acquire(trains=method == "start")
                    if not self.group.up:
                        channel = None  # the engines wait for a process that is lost
                        open_all([self.group], self.supervisor)
                        for call, its_arguments in self.log.calls:
                            self.group.call(call, *its_arguments)
                    result = self.group.call(method, *arguments, channel=channel)
                except DeadWorkerError as death:
                    self.supervisor.record(death)
                    self.group.stop()
                    remove_partial_output(method, arguments)
                else:
                    self.log.record(method, arguments, result)
                    return result
