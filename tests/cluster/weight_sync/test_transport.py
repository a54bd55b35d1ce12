"""Weights on their way from real ranks to a real engine, by every transport: they arrive whole, or not at all."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_flow.cluster.fault_tolerance import FaultTolerance
from rlhf_flow.cluster.ray import Ray, RayCluster, RayEngine, RayLearner
from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.cluster.weight_sync.shared_disk import Files
from rlhf_flow.cluster.weight_sync.transport import Transfer
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.weights.publish import tensors_of
from rlhf_flow.weights.source import Adapter, Checkpoint, Weights, adapter_fingerprint, fingerprint
from tests.support.classroom import SGD
from tests.support.giving import RANK_DIES, Ranks, TellingSpec, World, learn, make_world, told

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", params=["object_store", "disk"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = str(tmp_path_factory.mktemp("shared")) if request.param == "disk" else None
    transfer = Transfer(by=request.param, bucket_mib=1, folder=folder)
    opened = Ray(object_store_mib=100, fault_tolerance=FaultTolerance(deaths=100), transfer=transfer).open()
    yield opened
    opened.close()
    assert folder is None or not list(Path(folder).iterdir())


@pytest.fixture(scope="module")
def engine(cluster: RayCluster, world: World) -> RayEngine:
    return cluster.engine(TellingSpec(), world.model)


@pytest.fixture(scope="module")
def learner(cluster: RayCluster, world: World) -> RayLearner:
    """Two ranks, one of which dies where RANK_DIES says so."""
    learner: RayLearner = cluster.learner(Ranks(folder=world.folder, training=SGD), world.model)
    cluster.ready()
    return learner


def where(weights: Weights) -> list[Path]:
    return [file.path for file in weights.written] if isinstance(weights, Files) else []


def test_a_rank_that_dies_while_it_publishes_is_told_again_and_the_engine_gets_all_of_it(
    cluster: RayCluster, engine: RayEngine, learner: RayLearner, world: World
) -> None:
    dies = ["object_store", "disk"].index(cluster.spec.transfer.by)
    (world.folder / RANK_DIES).write_text(str(dies))
    policy = learn(learner, world, 1)
    assert [death.who for death in cluster.supervisor.deaths] == [f"learner rank {dies} of 2"]
    assert isinstance(policy.weights, Stored | Files)
    assert len(policy.weights.groups) > 4
    assert told(engine, policy) == policy.sha256 == fingerprint(policy.weights.load())
    assert learn(learner, world, 1).sha256 == policy.sha256, "ranks that did not die publish the same"


def test_what_a_learner_published_outlives_it_and_another_one_starts_from_it(
    cluster: RayCluster, engine: RayEngine, learner: RayLearner, world: World, tmp_path: Path
) -> None:
    other = cluster.learner(Ranks(folder=world.folder, training=SGD, ranks=1, zero_stage=2), world.model)
    cluster.ready()
    policy = learn(other, world, 1)
    mean = other.average("ema", 1, [(world.start, 0.5), (policy, 0.5)])
    other.close()
    learner.start(policy)
    learner.update(world.lesson, 0, 1)
    moved = learner.publish("policy", 2)
    learner.start(mean)
    learner.save_policy(tmp_path / "mean")
    assert moved.sha256 != policy.sha256
    assert [told(engine, each) for each in (moved, mean, policy)] == [moved.sha256, mean.sha256, policy.sha256]
    assert fingerprint(Checkpoint(tmp_path / "mean").load()) == mean.sha256
    files = where(policy.weights)
    assert all(file.exists() for file in files)
    del policy
    gc.collect()  # of reference cycles that others made
    assert not any(file.exists() for file in files)


def test_an_adapter_travels_alone(cluster: RayCluster, engine: RayEngine, world: World) -> None:
    if cluster.spec.transfer.by != "object_store":  # it is the same tensors in the same store
        return
    learner = cluster.learner(DeepSpeed(ranks=2, zero_stage=3, training=SGD, lora=LoRA(rank=4, alpha=8.0)), world.model)
    cluster.ready()
    policy = learn(learner, world, 1)
    learner.close()
    weights = policy.weights
    assert isinstance(weights, Adapter)
    assert isinstance(weights.tensors, Stored | Files)
    tensors = tensors_of(weights).load()
    assert all(".lora_" in name for name in tensors)
    assert policy.sha256 == adapter_fingerprint(world.start.sha256, fingerprint(tensors), scale=weights.scale)
    assert told(engine, policy) == checkpoint_of(world)  # it lies beside the weights, and they stay as they are


def checkpoint_of(world: World) -> str:
    return fingerprint(Checkpoint(Path(world.model.path)).load())


def test_a_file_that_was_cut_is_refused_and_the_engine_goes_on_with_what_it_holds(
    cluster: RayCluster, engine: RayEngine, learner: RayLearner, world: World
) -> None:
    if cluster.spec.transfer.by != "disk":
        return
    policy = learn(learner, world, 1)
    assert told(engine, policy) == policy.sha256
    broken = learn(learner, world, 2)
    last = where(broken.weights)[-1]
    os.truncate(last, last.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"{last.name} has \d+ bytes, and it was written with \d+"):
        told(engine, broken)
    with pytest.raises(ValueError, match="it was written with"):
        told(engine, broken)
    for file in where(policy.weights):
        file.unlink()  # the engine needs none of them
    assert told(engine, policy) == policy.sha256
    last.unlink()
    with pytest.raises(ValueError, match=f"{last.name} is missing"):
        told(engine, broken)


def test_a_temporary_folder_is_refused_where_other_nodes_may_be() -> None:
    with pytest.raises(ValueError, match=r"cluster.transfer.folder must be set .* that all of them see"):
        Ray(address="10.0.0.1:6379", transfer=Transfer(by="disk")).check(ranks=1)
    Ray(address="10.0.0.1:6379", transfer=Transfer(by="disk", folder="/shared")).check(ranks=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": "pigeon"}, "cluster.transfer.by must be one of object_store, disk, nccl, cuda_ipc, got 'pigeon'"),
        ({"bucket_mib": 0}, "cluster.transfer.bucket_mib must be >= 1, got 0"),
        ({"folder": "/somewhere"}, "cluster.transfer.folder is for cluster.transfer.by=disk"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transfer(**wrong)
