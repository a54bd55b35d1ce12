"""Weights on their way from real ranks to a real engine, by every transport: they arrive whole, or not at all."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from torch import Tensor

from rlhf_flow.cluster.object_store import Stored
from rlhf_flow.cluster.patience import Patience
from rlhf_flow.cluster.ray import Ray, RayCluster, RayEngine, RayLearner
from rlhf_flow.cluster.shared_disk import Files
from rlhf_flow.cluster.transfer import Transfer
from rlhf_flow.engine.huggingface import HuggingFace, HuggingFaceEngine
from rlhf_flow.learner.backend import Backend, Parameter, Part
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.preference import PreferenceLearner
from rlhf_flow.learner.torch import Torch
from rlhf_flow.publishing import tensors_of
from rlhf_flow.specs import Model, Place
from rlhf_flow.tables import Lesson
from rlhf_flow.types import Draw, Message, Policy, Prompt, Rollouts
from rlhf_flow.weights import Adapter, Checkpoint, Weights, adapter_fingerprint, checkpoint_fingerprint, fingerprint
from tests.learner.classroom import SGD, make_lesson, make_model, make_tables

pytestmark = pytest.mark.heavy
PROMPTS = (Prompt("p", (Message("user", "w3"),), (3,)),)


class Telling(HuggingFaceEngine):
    """An engine that says what it holds instead of what it drew."""

    def generate(self, *asked: object, **named: object) -> Rollouts | str:
        super().generate(*asked, **named)
        return fingerprint(self._networks[0].state_dict())


@dataclass(frozen=True)
class TellingSpec(HuggingFace):
    def open(self, model: Model, place: Place, *, mixes: bool = False) -> HuggingFaceEngine:
        engine = super().open(model, place, mixes=mixes)
        engine.__class__ = Telling
        return engine


@dataclass
class Dying:
    """The gathering of a backend that dies in the middle of it, once."""

    backend: Backend
    marker: Path
    calls: int = 0

    def whole(self, parameter: Parameter, part: Part, **how: object) -> Tensor | None:
        self.calls += 1
        if self.calls == 10 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return type(self.backend).whole(self.backend, parameter, part, **how)


@dataclass(frozen=True)
class Mortal(DeepSpeed):
    """A learner of which one rank dies in the middle of a publish."""

    marker: Path = Path()
    dies: int = 0
    ranks: int = 2
    zero_stage: int = 3

    def open(self, model: Model, place: Place) -> PreferenceLearner:
        # Buckets of some kilobytes, so that a small model has many.
        learner = super().open(model, replace(place, bucket=20_000))
        assert isinstance(learner, PreferenceLearner)
        if place.rank == self.dies:
            learner.backend.whole = Dying(learner.backend, self.marker).whole
        return learner


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    lesson: Lesson
    folder: Path
    undisturbed: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    path = Path(model.path)
    start, tables = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path)), make_tables(folder / "round")
    lesson = make_lesson(folder, [tables], Torch(training=SGD).open(model, Place()), start)
    return World(model, start, lesson, folder)


@pytest.fixture(scope="module", params=["object_store", "disk"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = str(tmp_path_factory.mktemp("shared")) if request.param == "disk" else None
    transfer = Transfer(by=request.param, bucket_mib=1, folder=folder)
    opened = Ray(object_store_mib=100, patience=Patience(deaths=100), transfer=transfer).open()
    yield opened
    opened.close()
    assert folder is None or not list(Path(folder).iterdir())


@pytest.fixture(scope="module")
def engine(cluster: RayCluster, world: World) -> RayEngine:
    return cluster.engine(TellingSpec(), world.model)


def learn(learner: RayLearner, world: World) -> Policy:
    learner.start(world.start)
    learner.update(world.lesson, 0, 2)
    return learner.publish("policy", 1)


def told(engine: RayEngine, policy: Policy) -> str:
    return engine.generate(PROMPTS, policy, Draw(max_tokens=2), round=1, seed=0)


def where(weights: Weights) -> list[Path]:
    return [file.path for file in weights.written] if isinstance(weights, Files) else []


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_while_it_publishes_is_told_again_and_the_engine_gets_all_of_it(
    dies: int, cluster: RayCluster, engine: RayEngine, world: World, tmp_path: Path
) -> None:
    before = len(cluster.supervisor.deaths)
    learner = cluster.learner(Mortal(training=SGD, marker=tmp_path / "died", dies=dies), world.model)
    cluster.ready()
    policy = learn(learner, world)
    assert [death.who for death in cluster.supervisor.deaths[before:]] == [f"learner rank {dies} of 2"]
    assert isinstance(policy.weights, Stored | Files)
    assert len(policy.weights.groups) > 4
    learner.close()  # what it published outlives it
    assert told(engine, policy) == policy.sha256 == fingerprint(policy.weights.load())
    assert world.undisturbed.setdefault("policy", policy.sha256) == policy.sha256
    files = where(policy.weights)
    assert all(file.exists() for file in files)
    del policy
    gc.collect()  # of reference cycles that others made
    assert not any(file.exists() for file in files)


def test_a_learner_starts_from_what_another_one_published_and_averages_it(
    cluster: RayCluster, engine: RayEngine, world: World, tmp_path: Path
) -> None:
    nobody = replace(Mortal(training=SGD, marker=tmp_path, dies=-1), zero_stage=2)
    learner = cluster.learner(nobody, world.model)
    cluster.ready()
    policy = learn(learner, world)
    mean = learner.average("ema", 1, [(world.start, 0.5), (policy, 0.5)])
    learner.close()
    another = cluster.learner(replace(nobody, zero_stage=3), world.model)
    cluster.ready()
    another.start(policy)
    another.update(world.lesson, 0, 1)
    moved = another.publish("policy", 2)
    another.start(mean)
    another.save_policy(tmp_path / "mean")
    another.close()
    assert moved.sha256 != policy.sha256
    assert [told(engine, each) for each in (moved, mean, policy)] == [moved.sha256, mean.sha256, policy.sha256]
    assert fingerprint(Checkpoint(tmp_path / "mean").load()) == mean.sha256


def test_an_adapter_travels_alone(cluster: RayCluster, engine: RayEngine, world: World) -> None:
    learner = cluster.learner(DeepSpeed(ranks=2, zero_stage=3, training=SGD, lora=LoRA(rank=4, alpha=8.0)), world.model)
    cluster.ready()
    policy = learn(learner, world)
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
    cluster: RayCluster, engine: RayEngine, world: World, tmp_path: Path
) -> None:
    if cluster.spec.transfer.by != "disk":
        return
    learner = cluster.learner(Mortal(training=SGD, marker=tmp_path, dies=-1), world.model)
    cluster.ready()
    policy = learn(learner, world)
    assert told(engine, policy) == policy.sha256
    learner.update(world.lesson, 0, 1)
    broken = learner.publish("policy", 2)
    learner.close()
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
