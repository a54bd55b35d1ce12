"""A Ray cluster that stays open between the runs of a multirun: `rlhf-flow run --multirun cluster=ray_persistent`.

Opening engines and learners takes longer than a short run. The next run reuses a worker if it asks for an equal spec;
otherwise that worker is closed and a new one is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rlhf_flow.cluster.ray import Ray, RayLearner, RayScorer
from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, ScorerSpec


@dataclass(frozen=True)
class PersistentRay(Ray):
    """As `cluster=ray`, but a multirun keeps the workers for its next run, unless a run fails."""


@dataclass
class OpenClusters:
    """Opens the cluster of each run of a multirun, which owns this and closes it."""

    persistent: tuple[PersistentRay, PersistentCluster] | None = None

    @contextmanager
    def cluster(self, spec: Any) -> Iterator[Cluster]:
        """The cluster of one run. It is closed after the run, unless it is persistent and the run succeeded."""
        if self.persistent is None or self.persistent[0] != spec:
            self.close()
            cluster = spec.open()
            if not isinstance(spec, PersistentRay):
                try:
                    yield cluster
                finally:
                    cluster.close()
                return
            self.persistent = spec, PersistentCluster(cluster)
        try:
            yield self.persistent[1]
        except BaseException:  # the state of the workers is unknown
            self.close()
            raise
        self.persistent[1].end_run()

    def close(self) -> None:
        if self.persistent is not None:
            _, cluster = self.persistent
            self.persistent = None
            cluster.close()


@dataclass
class PersistentCluster:
    """Keeps each worker with the spec that opened it, by role and number within a run."""

    cluster: Cluster
    workers: dict[str, tuple[object, Any]] = field(default_factory=dict)
    scorers: int = 0  # opened in the current run
    learners: int = 0

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        known, _ = self.workers.get("engine", (None, None))
        mixes = mixes or known == (spec, model, True)  # an engine for mixtures also serves single policies
        return self._worker("engine", (spec, model, mixes), lambda: self.cluster.engine(spec, model, mixes=mixes))

    def scorer(self, spec: ScorerSpec) -> Scorer:
        self.scorers += 1
        return self._worker(f"scorer {self.scorers}", spec, lambda: self.cluster.scorer(spec))

    def learner(self, spec: LearnerSpec, model: Model) -> Learner:
        self.learners += 1
        return self._worker(f"learner {self.learners}", (spec, model), lambda: self.cluster.learner(spec, model))

    def ready(self) -> None:
        self.cluster.ready()

    @property
    def gpus(self) -> float:
        return self.cluster.gpus

    @property
    def deaths(self) -> Sequence[str]:
        """Includes those of earlier runs."""
        return self.cluster.deaths

    def end_run(self) -> None:
        self.scorers = self.learners = 0

    def close(self) -> None:
        self.cluster.close()

    def _worker(self, role: str, key: object, opener: Callable[[], Any]) -> Any:
        known = self.workers.pop(role, None)
        if known is None or known[0] != key or _is_closed(known[1]):
            if known is not None:
                known[1].close()
            known = key, opener()
        self.workers[role] = known
        return known[1]


def _is_closed(worker: object) -> bool:
    """Whether the previous run closed it: reward updates close the scorer that they replace."""
    return isinstance(worker, RayScorer | RayLearner) and worker.closed
