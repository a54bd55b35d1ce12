"""A Ray cluster that stays up between the runs of one process: `rlhf-flow run --multirun cluster=ray_persistent`.

Opening engines and learners takes longer than a short run. A worker that the next run asks for by the same
specification serves it too, and one that it asks for otherwise makes room first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_flow.cluster.ray import Ray, RayLearner, RayScorer
from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, ScorerSpec

UP: list[tuple[PersistentRay, KeptCluster]] = []  # at most one


@dataclass(frozen=True)
class PersistentRay(Ray):
    """As `cluster=ray`, but workers stay for the next run of this process. After a run that failed, none does."""

    def open(self) -> Cluster:
        if not UP or UP[0][0] != self:
            end()
            UP.append((self, KeptCluster(super().open())))
        return UP[0][1]


@dataclass
class KeptCluster:
    """What is open, and the specification that it was opened by, of each place that a run has for a worker."""

    cluster: Cluster
    workers: dict[str, tuple[object, Any]] = field(default_factory=dict)
    scorers: int = 0  # of the run that is on
    learners: int = 0

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        known, _ = self.workers.get("engine", (None, None))
        mixes = mixes or known == (spec, model, True)  # an engine for mixtures answers for one policy as well
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
    def deaths(self) -> Sequence[str]:
        """Those of earlier runs included."""
        return self.cluster.deaths

    def close(self) -> None:
        """The end of a run: everything stays up, unless an error ends it, for then nobody knows what they hold."""
        self.scorers = self.learners = 0
        if sys.exception() is not None:
            end()

    def _worker(self, place: str, key: object, opener: Callable[[], Any]) -> Any:
        known = self.workers.pop(place, None)
        if known is not None and known[0] == key and not _closed(known[1]):
            self.workers[place] = known
        else:
            if known is not None:
                known[1].close()
            self.workers[place] = (key, opener())
        return self.workers[place][1]


def _closed(worker: object) -> bool:
    """Whether the run that it served closed it, as a judge that was trained anew closes what it was before."""
    return isinstance(worker, RayScorer | RayLearner) and worker.closed


def end() -> None:
    """Close what is up. A process that just ends does so too."""
    while UP:
        _, kept = UP.pop()
        kept.cluster.close()
