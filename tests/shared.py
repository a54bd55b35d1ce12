"""One Ray cluster for many runs: workers that are opened once and used by each run in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_flow.cluster.ray import Ray
from rlhf_flow.protocols import Engine, Learner, Scorer
from rlhf_flow.specs import Cluster, EngineSpec, LearnerSpec, Model, ScorerSpec


@dataclass
class Kept:
    """A cluster whose `close` leaves everything up; `end` closes it."""

    cluster: Cluster
    engines: dict[tuple[EngineSpec, Model], Engine] = field(default_factory=dict)
    learners: dict[str, Learner] = field(default_factory=dict)

    def engine(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        if (spec, model) not in self.engines:
            self.engines[spec, model] = self.cluster.engine(spec, model, mixes=True)
        return self.engines[spec, model]

    def scorer(self, spec: ScorerSpec) -> Scorer:
        return self.cluster.scorer(spec)

    def learner(self, spec: LearnerSpec, model: Model) -> Learner:
        key = repr((spec, model))
        if key not in self.learners:
            self.learners[key] = self.cluster.learner(spec, model)
        return self.learners[key]

    def ready(self) -> None:
        self.cluster.ready()

    def close(self) -> None: ...


KEPT: list[Kept] = []


@dataclass(frozen=True)
class Shared(Ray):
    """`cluster=shared` of the tests."""

    def open(self) -> Cluster:
        if not KEPT:
            KEPT.append(Kept(super().open()))
        return KEPT[0]


def end() -> None:
    while KEPT:
        KEPT.pop().cluster.close()
