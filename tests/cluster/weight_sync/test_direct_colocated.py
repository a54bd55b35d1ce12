"""Weights straight from real ranks to the engines at the same places, through memory that both see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_flow.cluster.fault_tolerance import FaultTolerance
from rlhf_flow.cluster.ray import Ray, RayCluster, RayLearner
from rlhf_flow.cluster.weight_sync.transport import Transfer
from tests.support.classroom import SGD
from tests.support.giving import (
    ENGINE_DIES,
    RANK_DIES,
    Fragile,
    Ranks,
    World,
    drawn_from_the_learner_alone,
    hollow,
    learn,
    make_world,
    told,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    transfer = Transfer(by="cuda_ipc", bucket_mib=1)
    opened = Ray(
        layout="colocated",
        object_store_mib=100,
        fault_tolerance=FaultTolerance(deaths=100),
        engines=2,
        prompts_per_task=1,
        transfer=transfer,
    ).open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def learner(cluster: RayCluster, world: World) -> RayLearner:
    learner: RayLearner = cluster.learner(Ranks(folder=world.folder, training=SGD), world.model)
    return learner


@pytest.mark.soak  # vLLM takes what comes as it does in test_express.py
def test_vllm_engines_draw_from_what_the_rank_beside_them_holds(
    cluster: RayCluster, learner: RayLearner, world: World, tmp_path: Path
) -> None:
    drawn_from_the_learner_alone(cluster, learner, world, tmp_path)


def test_whoever_dies_or_stepped_aside_engines_load_what_is_kept(
    cluster: RayCluster, learner: RayLearner, world: World
) -> None:
    engine = cluster.engine(Fragile(armed=world.folder / ENGINE_DIES), world.model)
    cluster.ready()
    assert told(engine, world.start)
    first = learn(learner, world, 1)
    (world.folder / RANK_DIES).write_text("1")
    assert told(engine, first) == first.sha256
    assert [death.who for death in cluster.supervisor.deaths] == ["learner rank 1 of 2"]
    second = learn(learner, world, 2)
    (world.folder / ENGINE_DIES).touch()
    assert told(engine, second) == second.sha256
    assert cluster.supervisor.deaths[1].who in ("engine 0", "engine 1")
    third = learn(learner, world, 3)
    assert told(engine, hollow(third)) == third.sha256
    fourth = learn(learner, world, 4)
    assert told(engine, world.start)
    with pytest.raises(RuntimeError, match="does not hold policy"):
        told(engine, hollow(fourth))  # the learner is aside
    assert told(engine, fourth) == fourth.sha256


def test_apart_there_is_no_memory_to_share() -> None:
    with pytest.raises(
        ValueError, match=r"cuda_ipc needs learner and engine on the same GPU: cluster.layout=colocated"
    ):
        Ray(transfer=Transfer(by="cuda_ipc"))
