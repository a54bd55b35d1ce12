"""Placement of workers that have GPUs of their own: on paper, and on two nodes that claim to have eight GPUs each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from rlhf_flow.cluster.joining import environment
from rlhf_flow.cluster.placement import DedicatedPlacement, Demand, Resources, placed
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.specs import Model, Place

MODEL = Model(path="toy")
NODE = {"num_cpus": 64, "num_gpus": 8, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
HEAD = NODE | {"include_dashboard": False}  # of ten processes
EIGHT = {"CPU": 64.0, "GPU": 8.0}


def learner(ranks: int) -> Demand:
    return Demand("learner", 0, ranks, {"CPU": 1.0, "GPU": 1.0})


def engines(number: int, gpus: float = 1.0, **own: float) -> list[Demand]:
    return [Demand(f"engine {index}", index, 1, {"CPU": 1.0, "GPU": gpus, **own}) for index in range(number)]


def nodes(*sizes: float) -> dict[str, Resources]:
    return {name: {"CPU": 64.0, "GPU": size} for name, size in zip("abcdef", sizes, strict=False)}


def test_the_learner_is_on_one_node_though_the_engines_are_named_first() -> None:
    *of_engines, of_learner = placed(nodes(8, 8), [*engines(8), learner(8)])
    assert len(set(of_learner)) == 1
    assert {node for (node,) in of_engines}.isdisjoint(of_learner)


@pytest.mark.parametrize(
    ("sizes", "ranks", "expected"),
    [
        ((8, 4), 4, "bbbb"),  # the smallest node that suffices
        ((4, 8, 6), 10, "bbbbbbbbaa"),  # the largest node, and the smallest one for the rest
        ((6, 6, 4), 16, "aaaaaabbbbbbcccc"),
    ],
)
def test_ranks_are_on_as_few_nodes_as_possible(sizes: tuple[int, ...], ranks: int, expected: str) -> None:
    (of_learner,) = placed(nodes(*sizes), [learner(ranks)])
    assert "".join(of_learner) == expected


def test_an_engine_has_all_its_gpus_on_one_node_and_small_workers_leave_it_room() -> None:
    scorers = engines(4)
    *of_scorers, of_engine, of_learner = placed(nodes(8, 8), [*scorers, *engines(1, gpus=8), learner(4)])
    assert of_engine != of_learner[:1]
    assert {node for (node,) in of_scorers} == {*of_learner}


def test_replicas_are_spread() -> None:
    assert sorted(node for (node,) in placed(nodes(8, 8), engines(4))) == ["a", "a", "b", "b"]
    without = {name: {"CPU": 8.0} for name in "ab"}  # no GPUs
    replicas = [Demand(f"engine {index}", index, 1, {"CPU": 1.0}) for index in range(2)]
    assert sorted(placed(without, replicas)) == [("a",), ("b",)]


def test_a_share_of_a_gpu_and_resources_of_the_users_own_count() -> None:
    free = nodes(1, 1) | {"c": {"CPU": 64.0, "GPU": 1.0, "fast": 1.0}}
    assert placed(free, engines(1, gpus=0.25, fast=1.0)) == [("c",)]
    assert len(placed(nodes(1), engines(10, gpus=0.1))) == 10


@pytest.mark.parametrize(
    ("sizes", "demands", "says"),
    [
        ((8, 8), [*engines(8), learner(8), *engines(1)], r"needs 1 x \(1 CPU, 1 GPU\).*room for 0.*Fix: fewer"),
        ((8, 8), [learner(17)], r"the learner needs 17 x .*room for 16"),
        ((4, 4), engines(1, gpus=8), "each on one node"),
        ((), engines(1), "room for 0"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(sizes: tuple[int, ...], demands: list[Demand], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        placed(nodes(*sizes), demands)


def dedicated(cluster: Mapping[str, Resources], free: Mapping[str, Resources] | None = None) -> DedicatedPlacement:
    return DedicatedPlacement(lambda: cluster, lambda: cluster if free is None else free)


def test_a_restarted_worker_returns_to_its_nodes_if_they_have_room() -> None:
    placement, ranks, engine = dedicated(nodes(8, 8)), learner(4), engines(1, gpus=4)[0]
    placement.reserve([ranks, engine])
    first = placement.hold(ranks)
    placement.release(ranks)
    assert placement.hold(ranks) == first
    placement.release(ranks)
    placement.reserve(engines(2, gpus=4))  # they take the node of the ranks
    assert first == ("a",) * 4
    assert placement.hold(ranks) == ("b",) * 4


def test_a_worker_whose_node_is_lost_goes_to_another_one_or_waits_for_one() -> None:
    alive = nodes(8, 8)
    placement, (engine,) = dedicated(alive), engines(1, gpus=8)
    (first,) = placement.hold(engine)
    placement.release(engine)
    del alive[first]
    (second,) = placement.hold(engine)
    assert second != first
    placement.release(engine)
    alive.clear()
    assert placement.hold(engine) == ()


def test_nodes_that_other_jobs_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_flow.cluster.placement.SETTLE_SECONDS", 0.0)
    placement, ranks = dedicated(nodes(8, 8), nodes(2, 8)), learner(8)
    assert placement.hold(ranks) == ("b",) * 8
    full = dedicated(nodes(8, 8), nodes(0, 0))
    assert len(full.hold(learner(8))) == 8  # Ray starts them once the others have ended


class Somewhere:
    """Any worker; `start` returns its node."""

    def start(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class Spec:
    gpus: int = 1
    ranks: int = 8
    loads_model: bool = True

    def open(self, *where: object, mixes: bool = False) -> Somewhere:
        place = where[-1]
        assert isinstance(place, Place)
        assert place.device == "cuda"
        return Somewhere()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with environment():
        from ray.cluster_utils import Cluster

        raylets = Cluster(initialize_head=True, head_node_args=HEAD)
        raylets.add_node(**NODE)
        raylets.wait_for_nodes()
        opened = Ray(address=raylets.address, engines=2, fault_tolerance=FaultTolerance(start_seconds=240)).open()
        assert isinstance(opened, RayCluster)
        yield opened
        opened.close()
        raylets.shutdown()


@pytest.mark.ray
def test_all_ranks_are_on_one_node_and_whole_engines_on_the_other(cluster: RayCluster) -> None:
    import ray

    engine, learner = cluster.engine(Spec(gpus=3), MODEL), cluster.learner(Spec(), MODEL)
    scorer = cluster.scorer(Spec())
    cluster.ready()

    def where(slot: object) -> list[str]:
        ranks = [rank for group in slot.groups for rank in group.ranks]
        return [ray.get(rank.handle.call.remote("start", (), {})) for rank in ranks]

    (of_learner,) = set(where(learner.slot))
    (of_others,) = {*where(engine.pool.slot), *where(scorer.pool.slot)}
    assert of_learner != of_others


@pytest.mark.ray
def test_a_run_that_needs_more_gpus_than_there_are_is_refused_at_once(cluster: RayCluster) -> None:
    refused = cluster.learner(Spec(ranks=17), MODEL)
    with pytest.raises(ValueError, match=r"the learner needs 17 x .*Fix: fewer"):
        cluster.ready()
    refused.close()
    cluster.launched.pop()
