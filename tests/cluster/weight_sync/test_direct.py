"""Weights straight from real ranks to engines that are up; where they are kept is read where that cannot be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_flow.cluster.fault_tolerance import FaultTolerance
from rlhf_flow.cluster.ray import Ray, RayCluster, RayEngine, RayLearner
from rlhf_flow.cluster.weight_sync.transport import Transfer
from tests.support.classroom import SGD
from tests.support.giving import (
    BUSY,
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
    wait,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    transfer = Transfer(by="nccl", bucket_mib=1)
    opened = Ray(
        object_store_mib=100,
        fault_tolerance=FaultTolerance(deaths=100),
        engines=2,
        prompts_per_task=1,
        transfer=transfer,
    ).open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def engine(cluster: RayCluster, world: World) -> RayEngine:
    """Two of them, which die when ENGINE_DIES is there."""
    return cluster.engine(Fragile(armed=world.folder / ENGINE_DIES), world.model)


@pytest.fixture(scope="module")
def ranks(cluster: RayCluster, world: World) -> RayLearner:
    learner: RayLearner = cluster.learner(Ranks(folder=world.folder, training=SGD), world.model)
    cluster.ready()
    return learner


@pytest.fixture
def learner(ranks: RayLearner) -> RayLearner:
    ranks.supervisor.deaths.clear()
    return ranks


def test_two_vllm_engines_draw_from_what_the_learner_holds_and_nothing_else_is_read(
    cluster: RayCluster, learner: RayLearner, world: World, tmp_path: Path
) -> None:
    drawn_from_the_learner_alone(cluster, learner, world, tmp_path)


def test_a_rank_that_dies_while_it_sends_is_started_again_and_engines_load_what_is_kept(
    engine: RayEngine, learner: RayLearner, world: World
) -> None:
    """The first one, which sends; the other one: test_express_colocated.py."""
    assert told(engine, world.start)
    policy = learn(learner, world, 1)
    (world.folder / RANK_DIES).write_text("0")
    assert told(engine, policy) == policy.sha256
    assert [death.who for death in learner.supervisor.deaths] == ["learner rank 0 of 2"]
    later = learn(learner, world, 2)
    assert told(engine, hollow(later)) == later.sha256 != policy.sha256


def test_an_engine_that_dies_while_it_receives_costs_the_learner_nothing(
    engine: RayEngine, learner: RayLearner, world: World
) -> None:
    assert told(engine, world.start)
    policy = learn(learner, world, 1)
    (world.folder / ENGINE_DIES).touch()
    assert told(engine, policy) == policy.sha256
    (death,) = learner.supervisor.deaths
    assert death.who in ("engine 0", "engine 1")
    later = learn(learner, world, 2)
    assert told(engine, hollow(later)) == later.sha256


def test_of_a_learner_that_is_busy_or_has_learned_on_engines_load_what_is_kept(
    engine: RayEngine, learner: RayLearner, world: World
) -> None:
    assert told(engine, world.start)
    policy = learn(learner, world, 1)
    (world.folder / BUSY).touch()
    thread = threading.Thread(target=learner.steps, args=(world.lesson,))
    thread.start()
    wait((world.folder / f"{BUSY}.began").exists)
    assert told(engine, policy) == policy.sha256
    assert thread.is_alive()
    (world.folder / BUSY).unlink()
    thread.join()
    learner.update(world.lesson, 0, 1)
    assert told(engine, world.start)
    with pytest.raises(RuntimeError, match="does not hold policy"):
        told(engine, hollow(policy))


@pytest.mark.parametrize("sharing", [{"layout": "colocated"}, {"gpu_share": 0.5}])
def test_workers_that_share_a_gpu_are_refused(sharing: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cluster.transfer.by=nccl needs GPUs of its own .* try cluster.transfer.by="):
        Ray(transfer=Transfer(by="nccl"), **sharing)
