"""Which workers of a persistent cluster the next run reuses, and what a failure closes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rlhf_flow.cluster.ray import Ray
from rlhf_flow.cluster.ray_persistent import OpenClusters, PersistentCluster, PersistentRay
from rlhf_flow.specs import Model

MODEL = Model(path="toy")


@dataclass(eq=False)
class Worker:
    spec: object
    mixes: bool = False
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Cluster:
    """Opens workers that do nothing."""

    workers: list[Worker] = field(default_factory=list)
    closed: bool = False

    def engine(self, spec: object, model: Model, *, mixes: bool = False) -> Worker:
        return self.scorer(spec, mixes=mixes)

    def scorer(self, spec: object, *, mixes: bool = False) -> Worker:
        self.workers.append(Worker(spec, mixes))
        return self.workers[-1]

    def learner(self, spec: object, model: Model) -> Worker:
        return self.scorer(spec)

    deaths = ()

    def ready(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def one_run(cluster: PersistentCluster, *scorers: str, learner: str = "slow", mixes: bool = False) -> list[Worker]:
    opened = [cluster.engine("vllm", MODEL, mixes=mixes), cluster.learner(learner, MODEL)]
    opened += [cluster.scorer(scorer) for scorer in scorers]
    cluster.ready()
    cluster.end_run()
    return opened


def test_the_next_run_gets_the_workers_that_it_asks_for_alike() -> None:
    cluster = PersistentCluster(Cluster())
    first, again = one_run(cluster, "proxy", "gold"), one_run(cluster, "proxy", "gold")
    assert first == again
    assert not any(worker.closed for worker in first)


def test_one_that_is_asked_for_otherwise_makes_room_and_the_others_stay() -> None:
    cluster = PersistentCluster(Cluster())
    first, second = one_run(cluster, "proxy", "gold"), one_run(cluster, "proxy", "silver", learner="fast")
    assert [worker.closed for worker in first] == [False, True, False, True]
    assert [worker.spec for worker in second] == ["vllm", "fast", "proxy", "silver"]


def test_an_engine_for_mixtures_serves_every_later_run() -> None:
    cluster = PersistentCluster(Cluster())
    (plain, *_), (mixing, *_), (last, *_) = (one_run(cluster, mixes=mixes) for mixes in (False, True, False))
    assert plain.closed and not plain.mixes
    assert mixing is last and mixing.mixes


def test_a_multirun_keeps_one_cluster_and_none_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Cluster] = []

    def opens(self: Ray) -> Cluster:
        opened.append(Cluster())
        return opened[-1]

    monkeypatch.setattr(Ray, "open", opens)
    clusters = OpenClusters()
    for spec, number in ((PersistentRay(), 1), (PersistentRay(), 1), (PersistentRay(object_store_mib=100), 2)):
        with clusters.cluster(spec):
            assert [cluster.closed for cluster in opened] == [True] * (number - 1) + [False]
    with pytest.raises(RuntimeError, match="no answer"), clusters.cluster(spec):
        raise RuntimeError("no answer")
    assert opened[1].closed and clusters.persistent is None
    with clusters.cluster(PersistentRay()):
        assert not opened[2].closed
    with clusters.cluster(Ray()):
        assert opened[2].closed
    assert opened[3].closed
    with clusters.cluster(PersistentRay()):
        pass
    clusters.close()
    assert [cluster.closed for cluster in opened] == [True] * 5
