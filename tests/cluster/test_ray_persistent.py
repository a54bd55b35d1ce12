"""Workers that stay between runs: who is served again, who makes room, and what an error leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rlhf_flow.cluster import ray_persistent as kept
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.cluster.ray_persistent import KeptCluster, PersistentRay
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


def one_run(cluster: KeptCluster, *scorers: str, learner: str = "slow", mixes: bool = False) -> list[Worker]:
    opened = [cluster.engine("vllm", MODEL, mixes=mixes), cluster.learner(learner, MODEL)]
    opened += [cluster.scorer(scorer) for scorer in scorers]
    cluster.ready()
    cluster.close()
    return opened


def test_the_next_run_gets_the_workers_that_it_asks_for_alike() -> None:
    cluster = KeptCluster(Cluster())
    first, again = one_run(cluster, "proxy", "gold"), one_run(cluster, "proxy", "gold")
    assert first == again
    assert not any(worker.closed for worker in first)


def test_one_that_is_asked_for_otherwise_makes_room_and_the_others_stay() -> None:
    cluster = KeptCluster(Cluster())
    first, second = one_run(cluster, "proxy", "gold"), one_run(cluster, "proxy", "silver", learner="fast")
    assert [worker.closed for worker in first] == [False, True, False, True]
    assert [worker.spec for worker in second] == ["vllm", "fast", "proxy", "silver"]


def test_an_engine_for_mixtures_serves_every_later_run() -> None:
    cluster = KeptCluster(Cluster())
    (plain, *_), (mixing, *_), (last, *_) = (one_run(cluster, mixes=mixes) for mixes in (False, True, False))
    assert plain.closed and not plain.mixes
    assert mixing is last and mixing.mixes


def test_a_process_has_one_such_cluster_and_a_run_that_fails_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Cluster] = []

    def opens(self: Ray) -> Cluster:
        opened.append(Cluster())
        return opened[-1]

    monkeypatch.setattr(Ray, "open", opens)
    one = PersistentRay().open()
    assert PersistentRay().open() is one
    other = PersistentRay(object_store_mib=100).open()
    assert other is not one and opened[0].closed
    with pytest.raises(RuntimeError, match="no answer"):
        try:
            raise RuntimeError("no answer")
        finally:
            other.close()
    assert opened[1].closed and not kept.UP
    assert PersistentRay().open() is not other
    kept.end()
    assert [cluster.closed for cluster in opened] == [True] * 3
