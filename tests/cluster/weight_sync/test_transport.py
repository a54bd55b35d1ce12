"""Weights from real ranks to an engine through the object store. A broadcast is in test_direct.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.cluster.clients import RayLearner
from rlhf_flow.cluster.engine_client import RayEngine
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.cluster.weight_sync.transport import Transfer
from rlhf_flow.engine.huggingface import HuggingFace, HuggingFaceEngine
from rlhf_flow.learner.backend import Backend, Parameter, Part
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.preference_learner import PreferenceLearner
from rlhf_flow.learner.torch import Torch
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Message, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.fingerprint import adapter_fingerprint, checkpoint_fingerprint, fingerprint
from rlhf_flow.weights.publish import tensors_of
from rlhf_flow.weights.source import Adapter, Checkpoint
from tests.support.classroom import SGD, make_lesson, make_model, make_tables

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
RANK_DIES = "rank dies"  # a file that holds the number of the rank that is to die
PROMPT = Prompt("p0", (Message("user", "w0"),), (3, 9))


class Telling(HuggingFaceEngine):
    """An engine that returns the hash of its weights instead of answers."""

    def stream(self, prompts: Sequence[Prompt], *others: object, **named: object) -> Iterator[Rollouts]:
        for _ in super().stream(prompts, *others, **named):
            pass
        weights = fingerprint(self._networks[0].state_dict())
        yield Rollouts(1, tuple(prompts), tuple((weights,) for _ in prompts))


@dataclass(frozen=True)
class TellingSpec(HuggingFace):
    def open(self, model: Model, place: Place, *, mixes: bool = False) -> HuggingFaceEngine:
        engine = super().open(model, place, mixes=mixes)
        engine.__class__ = Telling
        return engine


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    lesson: TrainingRound
    folder: Path


@dataclass
class Dying:
    """Kills the rank that the file `armed` names, in the middle of a publish."""

    backend: Backend
    armed: Path
    calls: int = 0

    def gather(self, parts: Sequence[tuple[Parameter, Part]], dtype: torch.dtype) -> list[Tensor]:
        self.calls += self.armed.exists() and self.armed.read_text() == str(self.backend.rank)
        if self.calls == 3:
            self.armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return type(self.backend).gather(self.backend, parts, dtype)


@dataclass(frozen=True)
class Ranks(DeepSpeed):
    folder: Path = Path()
    ranks: int = 2
    zero_stage: int = 3

    def open(self, model: Model, place: Place) -> PreferenceLearner:
        learner = super().open(model, replace(place, bucket=20_000))  # bytes: a small model has many buckets
        assert isinstance(learner, PreferenceLearner)
        learner.backend.gather = Dying(learner.backend, self.folder / RANK_DIES).gather
        return learner


def learn(learner: RayLearner, world: World, round: int) -> Policy:
    if round == 1:
        learner.start(world.start)
    learner.update(world.lesson, 0, 1)
    return learner.publish("policy", round)


def held(engine: RayEngine, policy: Policy) -> str:
    """The hash of the weights that the engine holds for the policy."""
    (told,) = engine.generate([PROMPT], policy, SamplingParams(max_tokens=2), round=1, seed=0).responses[0]
    return told


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    path = Path(model.path)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(path, head_dim=32)).save_pretrained(path)
    start, tables = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path)), make_tables(folder / "round")
    return World(model, start, make_lesson(folder, [tables], Torch(training=SGD).open(model, Place()), start), folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    transfer = Transfer(by="object_store", bucket_mib=1)
    opened = Ray(object_store_mib=100, fault_tolerance=FaultTolerance(deaths=100), transfer=transfer).open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def engine(cluster: RayCluster, world: World) -> RayEngine:
    return cluster.engine(TellingSpec(), world.model)


# Two ranks publish in tests/runs/test_recipes.py too, and one dies in tests/cluster/test_deaths.py.
@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.soak)], ids="{} ranks".format)
def learner(request: pytest.FixtureRequest, cluster: RayCluster, world: World) -> RayLearner:
    """Ranks, one of which dies where RANK_DIES says so."""
    learner: RayLearner = cluster.learner(Ranks(folder=world.folder, training=SGD, ranks=request.param), world.model)
    cluster.ready()
    return learner


def name_of(learner: RayLearner) -> str:
    ranks = len(learner.group.ranks)
    return "learner" if ranks == 1 else f"learner rank 0 of {ranks}"


def test_a_rank_that_dies_while_it_publishes_replays_its_calls_and_the_engine_gets_all_weights(
    cluster: RayCluster, engine: RayEngine, learner: RayLearner, world: World
) -> None:
    before = len(cluster.supervisor.deaths)
    (world.folder / RANK_DIES).write_text("0")
    policy = learn(learner, world, 1)
    assert [death.worker for death in cluster.supervisor.deaths[before:]] == [name_of(learner)]
    assert isinstance(policy.weights, Stored)
    assert len(policy.weights.groups) > 4
    assert held(engine, policy) == policy.sha256 == fingerprint(policy.weights.load())
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
    assert [held(engine, each) for each in (moved, mean, policy)] == [moved.sha256, mean.sha256, policy.sha256]
    assert fingerprint(Checkpoint(tmp_path / "mean").load()) == mean.sha256


def test_an_adapter_travels_alone(cluster: RayCluster, engine: RayEngine, world: World) -> None:
    learner = cluster.learner(DeepSpeed(ranks=1, zero_stage=2, training=SGD, lora=LoRA(rank=4, alpha=8.0)), world.model)
    cluster.ready()
    policy = learn(learner, world, 1)
    learner.close()
    weights = policy.weights
    assert isinstance(weights, Adapter)
    assert isinstance(weights.tensors, Stored)
    tensors = tensors_of(weights).load()
    assert all(".lora_" in name for name in tensors)
    assert policy.sha256 == adapter_fingerprint(world.start.sha256, fingerprint(tensors), scale=weights.scale)
    assert held(engine, policy) == checkpoint_of(world)  # the base weights do not change


def checkpoint_of(world: World) -> str:
    return fingerprint(Checkpoint(Path(world.model.path)).load())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": "pigeon"}, r"cluster.transfer.by=pigeon: .* Fix: cluster.transfer.by=direct .* or object_store"),
        ({"by": "nccl"}, r"cluster.transfer.by=nccl: .* removed"),
        ({"by": "disk"}, r"cluster.transfer.by=disk: .* removed"),
        ({"bucket_mib": 0}, "cluster.transfer.bucket_mib must be >= 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transfer(**wrong)
