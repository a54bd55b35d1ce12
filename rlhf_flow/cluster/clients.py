"""Blocking clients with the methods of the worker that they call on the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.cluster.gpu_sharing import GpuSlot
from rlhf_flow.cluster.replay_log import CallLog, remove_partial_output
from rlhf_flow.cluster.startup import open_all
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Call, Pool
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.scorer.chunking import in_pieces
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams, Scored

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = 2  # a task takes 1 / (SPLITS * engines) of the remaining prompts, so that tasks get smaller towards the end


@dataclass(frozen=True)
class RayEngine:
    """Replicas of an engine that share the prompts of a call."""

    pool: Pool
    prompts_per_task: int  # at least

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        """As `Engine.generate`. Seeds belong to prompts, so the answers do not depend on the replica."""
        return Rollouts.gathered(prompts, self.stream(prompts, policy, draw, round=round, seed=seed), round)

    def stream(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `StreamingEngine.stream`. If a replica dies, another one samples the prompts that it had not finished."""
        tasks = guided(prompts, engines=len(self.pool.groups), least=self.prompts_per_task)
        finished = set[str]()

        def call(number: int) -> Call:
            left = [prompt for prompt in tasks[number] if prompt.id not in finished]
            return Call("stream", (left, policy, draw), {"round": round, "seed": seed})

        for _, piece in self.pool.stream(list(map(call, range(len(tasks)))), rest=call):
            finished.update(prompt.id for prompt in piece.prompts)
            yield piece

    def close(self) -> None:
        self.pool.stop()


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
    log: CallLog = field(default_factory=CallLog)

    def start(self, policy: Policy) -> None:
        self._call("start", policy)

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._call("logps", responses, wanted, policy)

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._call("spread", responses, wanted, policy)

    def steps(self, lesson: TrainingRound) -> int:
        return self._call("steps", lesson)

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        return self._call("update", lesson, first, last)

    def publish(self, name: str, round: int) -> Policy:
        return self._call("publish", name, round)

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return self._call("average", name, round, terms)

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

    def _call(self, method: str, *arguments: Any) -> Any:
        """Raises what a rank raised, or WorkerError after too many deaths."""
        while True:
            try:
                self.slot.acquire()
                if not self.group.up:
                    open_all([self.group], self.supervisor)
                    for call, its_arguments in self.log.calls:
                        self.group.call(call, *its_arguments)
                result = self.group.call(method, *arguments)
            except DeadWorkerError as death:
                self.supervisor.record(death)
                self.group.stop()
                remove_partial_output(method, arguments)
            else:
                self.log.record(method, arguments, result)
                return result


def guided(prompts: Sequence[Prompt], *, engines: int, least: int) -> list[Sequence[Prompt]]:
    """Tasks for engines that take the next one when they are free: large ones first, so that all engines end together.

    Guided self-scheduling, Polychronopoulos and Kuck 1987. A single engine gets all prompts, which fills its batches.
    """
    if engines == 1:
        return [prompts]
    tasks, at = [], 0
    while at < len(prompts):
        size = max(least, -(-(len(prompts) - at) // (SPLITS * engines)))
        tasks.append(prompts[at : at + size])
        at += size
    return tasks or [prompts]
