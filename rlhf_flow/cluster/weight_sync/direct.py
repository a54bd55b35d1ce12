"""New weights to engines that are up, straight from the learner that still holds them.

Nothing depends on it: the weights are kept as well, and engines load from there whatever they did not get so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from rlhf_flow.cluster.heartbeat import BEAT_SECONDS
from rlhf_flow.cluster.hiring import LOOPBACK
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.cluster.weight_sync.broadcast import StreamedWeights
from rlhf_flow.cluster.weight_sync.channels import FIRST, Channel, ProcessGroupChannel, SharedMemoryChannel
from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.cluster.worker_group import WorkerGroup
from rlhf_flow.cluster.worker_pool import Pool
from rlhf_flow.types import Policy

if TYPE_CHECKING:
    from ray import ObjectRef

    from rlhf_flow.cluster.clients import RayLearner

Ends: TypeAlias = tuple[
    list[list[Channel]], list[tuple[WorkerGroup, Channel]]
]  # of each rank of the learner; of each engine


@dataclass
class DirectWeightSync:
    """Of a run: who learns in it, and how its ranks reach engines."""

    supervisor: Supervisor
    seconds: float  # longest wait of one process for another
    on_gpus: bool  # learners and engines
    local: bool  # all nodes are this machine
    paired: bool  # colocated: learner rank i and engine i are at the same place
    learners: list[RayLearner] = field(default_factory=list)
    works: bool = True  # once it failed though nobody died, it is not tried again

    def give(self, policy: Policy, pool: Pool) -> None:
        """Let the engines that lack a policy load it now, if a learner holds what it published, and is there and free.

        Raises WorkerError where too many died on the way.
        """
        if not self.works or not isinstance(policy.weights, Stored):
            return
        for learner in self.learners:
            if learner.journal.published != policy.sha256 or not learner.busy.acquire(blocking=False):
                continue  # whoever looks ahead does not wait for one that learns
            try:
                crew = learner.crew
                if learner.journal.published == policy.sha256 and crew.ranks and crew.where and learner.turn.is_mine:
                    self._give(policy, policy.weights, crew, self._lacking(policy, pool))
            finally:
                learner.busy.release()

    def _lacking(self, policy: Policy, pool: Pool) -> dict[int, WorkerGroup]:
        """The engines that are up and would have to load it, by number."""
        up = {number: crew for number, crew in enumerate(pool.crews) if crew.where and crew.ranks}
        asked = {number: crew.ranks[0].handle.lacks.remote(policy) for number, crew in up.items()}
        return {
            number: up[number]
            for number, answer in asked.items()
            if self._failure(up[number], answer) is None and up[number].get(answer, 0)
        }

    def _give(self, policy: Policy, kept: Stored, learner: WorkerGroup, engines: dict[int, WorkerGroup]) -> None:
        """Let all begin, and wait until all have ended. An engine that failed is started again: vLLM is lost then."""
        import ray

        deaths = len(self.supervisor.deaths)
        ends = self._pairs(kept, learner, engines) if self.paired else self._all(learner, list(engines.values()))
        if ends is None:
            return
        of_ranks, of_engines = ends
        loading = [
            (crew, crew.send("take", replace(policy, weights=StreamedWeights(kept.groups, line))))
            for crew, line in of_engines
        ]
        device = self._device
        sending = [
            rank.handle.give.remote(policy.sha256, kept.groups, lines, device)
            for rank, lines in zip(learner.ranks, of_ranks, strict=True)
        ]
        failures = [self._failure(learner, *sending)]
        for crew, loaded in loading:
            if learner.ranks:
                failures.append(self._failure(crew, *loaded))
            else:  # it can only fail, and says so at once, or waits for nobody
                with suppress(Exception):
                    ray.get(loaded, timeout=BEAT_SECONDS)  # what nobody reads, Ray prints
            if not learner.ranks or failures[-1] is not None:
                crew.dismiss()
        if failed := [failure for failure in failures if failure is not None]:
            self.works = len(self.supervisor.deaths) > deaths
            why = "somebody died." if self.works else f"{failed[0]}. So will all later ones."
            print(f"warning: engines load the policy of round {policy.round} from where it is kept: {why}", flush=True)

    def _all(self, learner: WorkerGroup, engines: Sequence[WorkerGroup]) -> Ends | None:
        """The first rank to all engines."""
        lines = self._group(learner, 1 + len(engines)) if engines else None
        if lines is None:
            return None
        return [[lines[0]], *([] for _ in learner.ranks[1:])], list(zip(engines, lines[1:], strict=True))

    def _pairs(self, kept: Stored, learner: WorkerGroup, engines: dict[int, WorkerGroup]) -> Ends | None:
        """The first rank to those that are where an engine is, and each of these to that engine."""
        size = len(learner.ranks)
        beside = {
            rank: crew
            for rank, crew in engines.items()
            if rank < size and crew.where[0].node == learner.where[rank].node
        }
        inner = [FIRST, *(rank for rank in beside if rank != FIRST)]
        among = self._group(learner, len(inner)) if len(inner) > 1 else []
        if not beside or among is None:
            return None
        of_ranks: list[list[Channel]] = [[] for _ in learner.ranks]
        for rank, line in zip(inner, among, strict=False):  # one alone has none
            of_ranks[rank].append(line)
        room = max(sum(entry.size for entry in group) for group in kept.groups)
        of_engines: list[tuple[WorkerGroup, Channel]] = []
        for rank, crew in beside.items():
            meeting = Path("/tmp") / f"rlhf-flow-{uuid4().hex}"  # short: a socket's path has at most 107 bytes
            first, other = (
                SharedMemoryChannel(meeting, first, self._device, room, self.seconds) for first in (True, False)
            )
            of_ranks[rank].append(first)
            of_engines.append((crew, other))
        return of_ranks, of_engines

    def _group(self, learner: WorkerGroup, size: int) -> list[Channel] | None:
        """The ends of one that begins with the first rank; None where that is gone."""
        meeting = learner.ranks[0].handle.meeting_point.remote()
        if self._failure(learner, meeting) is not None:
            return None
        found, port = learner.get(meeting, 0)
        address = LOOPBACK if self.local else found
        return [ProcessGroupChannel(address, port, rank, size, self._device, self.seconds) for rank in range(size)]

    @property
    def _device(self) -> str:
        return "cuda" if self.on_gpus else "cpu"

    def _failure(self, crew: WorkerGroup, *calls: ObjectRef) -> Exception | None:
        """What ended the calls, once they have ended; None: the answers. Whoever died is started again when asked."""
        try:
            crew.wait(calls)
        except DeadWorkerError as death:
            crew.dismiss()
            self.supervisor.survive(death)
            return death
        except Exception as failure:  # whatever it is: the weights are at hand, and the same call may go well with them
            return failure
        return None
