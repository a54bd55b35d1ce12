"""Placement of colocated roles on two nodes that claim to have two GPUs each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rlhf_flow.cluster.joining import environment
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Policy

pytestmark = pytest.mark.ray
MODEL = Model(path="toy")
NODE = {"num_cpus": 8, "num_gpus": 2, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
HEAD = NODE | {"include_dashboard": False}  # of ten processes


class Somewhere:
    """Any worker; `start` returns its node and its GPUs."""

    def start(self, policy: Policy | None = None) -> tuple[str, tuple[int, ...]]:
        import ray

        return ray.get_runtime_context().get_node_id(), tuple(ray.get_gpu_ids())

    def step_aside(self) -> None: ...

    def come_back(self) -> None: ...


@dataclass(frozen=True)
class Spec:
    gpus: int = 1
    ranks: int = 3
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

        nodes = Cluster(initialize_head=True, head_node_args=HEAD)
        nodes.add_node(**NODE)
        nodes.wait_for_nodes()
        spec = Ray(
            address=nodes.address,
            layout="colocated",
            engines=3,
            scorers=1,
            fault_tolerance=FaultTolerance(start_seconds=120, deaths=100),
        )
        opened = spec.open()
        assert isinstance(opened, RayCluster)
        yield opened
        opened.close()
        nodes.shutdown()


def test_process_i_of_every_role_is_on_gpu_i_and_comes_back_there(cluster: RayCluster) -> None:
    import ray

    engine, learner, scorer = cluster.engine(Spec(), MODEL), cluster.learner(Spec(), MODEL), cluster.scorer(Spec())
    cluster.ready()

    def where(slot: object) -> list[tuple[str, tuple[int, ...]]]:
        ranks = [rank for group in slot.groups for rank in group.ranks]
        return [ray.get(rank.handle.call.remote("start", (), {})) for rank in ranks]

    places = where(engine.pool.slot)
    assert len(set(places)) == 3
    assert {len(gpus) for _, gpus in places} == {1}
    assert places[0][0] == places[1][0] != places[2][0]  # neighbours are on one node
    assert where(learner.slot) == places
    assert where(scorer.pool.slot) == places[:1]
    os.kill(learner.group.processes[2].pid, signal.SIGKILL)
    learner.start(Policy("policy", 0, "hash", None))
    assert where(learner.slot) == places


def test_more_processes_of_a_role_than_gpus_are_refused(cluster: RayCluster) -> None:
    cluster.learner(Spec(ranks=5), MODEL)
    with pytest.raises(ValueError, match=r"needs 5 GPUs, the largest of learner.ranks.*Fix: lower"):
        cluster.ready()
    cluster.launched.pop()
