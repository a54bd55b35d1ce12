"""New weights to engines that are up, straight from the learner that still holds them.

Nothing depends on it: the weights are kept as well, and engines load from there whatever they did not get so.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from rlhf_flow.cluster.broadcast import Broadcast
from rlhf_flow.cluster.crew import Crew
from rlhf_flow.cluster.hiring import LOOPBACK
from rlhf_flow.cluster.object_store import Stored
from rlhf_flow.cluster.pool import Pool
from rlhf_flow.cluster.pulse import BEAT_SECONDS
from rlhf_flow.cluster.supervisor import DeadWorkerError, Supervisor
from rlhf_flow.types import Policy

if TYPE_CHECKING:
    from ray import ObjectRef

    from rlhf_flow.cluster.proxies import RayLearner


@dataclass
class Express:
    """Of a run: who learns in it, and how the first rank of a learner reaches engines."""

    supervisor: Supervisor
    seconds: float  # longest wait of one process for another
    on_gpus: bool  # learners and engines
    local: bool  # all nodes are this machine
    learners: list[RayLearner] = field(default_factory=list)
    works: bool = True  # once it failed though nobody died, it is not tried again

    def give(self, policy: Policy, pool: Pool) -> None:
        """Let the engines that lack a policy load it now, if a learner holds what it published and is free.

        Raises WorkerError where too many died on the way.
        """
        if not self.works or not isinstance(policy.weights, Stored):
            return
        for learner in self.learners:
            if learner.journal.published != policy.sha256 or not learner.busy.acquire(blocking=False):
                continue  # whoever looks ahead does not wait for one that learns
            try:
                crew = learner.crew
                if learner.journal.published == policy.sha256 and crew.ranks and crew.where:
                    self._give(policy, policy.weights, crew, self._lacking(policy, pool))
            finally:
                learner.busy.release()

    def _lacking(self, policy: Policy, pool: Pool) -> list[Crew]:
        """The engines that are up and would have to load it."""
        asked = [(crew, crew.ranks[0].handle.lacks.remote(policy)) for crew in pool.crews if crew.where and crew.ranks]
        return [crew for crew, answer in asked if self._failure(crew, answer) is None and crew.get(answer, 0)]

    def _give(self, policy: Policy, kept: Stored, learner: Crew, engines: list[Crew]) -> None:
        """Let all begin, and wait until all have ended. An engine that failed is started again: vLLM is lost then."""
        import ray

        if not engines:
            return
        deaths, size = len(self.supervisor.deaths), 1 + len(engines)
        meeting = learner.ranks[0].handle.meeting_point.remote()
        if self._failure(learner, meeting) is not None:
            return
        found, port = learner.get(meeting, 0)
        address, device = LOOPBACK if self.local else found, "cuda" if self.on_gpus else "cpu"
        ends = [Broadcast(kept.groups, address, port, rank, size, device, self.seconds) for rank in range(size)]
        loading = [crew.send("hold", replace(policy, weights=end)) for crew, end in zip(engines, ends[1:], strict=True)]
        sending = [
            rank.handle.broadcast.remote(policy.name, policy.round, end)
            for rank, end in zip_longest(learner.ranks, ends[:1])
        ]
        failures = [self._failure(learner, *sending)]
        for crew, loaded in zip(engines, loading, strict=True):
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

    def _failure(self, crew: Crew, *calls: ObjectRef) -> Exception | None:
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
