"""The learner broadcasts published weights into real vLLM engines; what does not arrive is loaded from a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.cluster.clients import RayLearner
from rlhf_flow.cluster.engine_client import RayEngine
from rlhf_flow.cluster.ray import Ray, RayCluster
from rlhf_flow.cluster.supervisor import FaultTolerance
from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.cluster.weight_sync.transport import Transfer
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.torch import Torch
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Message, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.publish import HeldByLearner
from tests.support.classroom import SGD, make_lesson, make_model, make_tables, policy_of

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.deepspeed]
PROMPTS = [Prompt(f"p{n}", (Message("user", "w0"),), (3, 9, 4 + n)) for n in range(6)]
DRAW = SamplingParams(n=2, max_tokens=8)


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    lesson: TrainingRound


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(model.path, head_dim=32)).save_pretrained(model.path)  # as vLLM wants
    start, tables = policy_of(model), make_tables(folder / "round")
    return World(model, start, make_lesson(folder, [tables], Torch(training=SGD).open(model, Place()), start))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    tolerance = FaultTolerance(deaths=100)
    opened = Ray(object_store_mib=100, engines=2, fault_tolerance=tolerance, transfer=Transfer(bucket_mib=1)).open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def workers(cluster: RayCluster, world: World) -> tuple[RayEngine, RayLearner]:
    engine = cluster.engine(VLLM(kv_cache_mib=8), world.model)
    learner = cluster.learner(DeepSpeed(zero_stage=3, training=SGD), world.model)
    cluster.ready()
    return engine, learner


def next_policy(learner: RayLearner, world: World, round: int) -> Policy:
    if round == 1:
        learner.start(world.start)
    learner.update(world.lesson, 0, 1)
    return learner.publish("policy", round)


def answers(engine: RayEngine, policy: Policy) -> Mapping[str, tuple[list[int], list[float]]]:
    found: Rollouts = engine.generate(PROMPTS, policy, DRAW, round=1, seed=0)
    assert {one.policy for group in found.responses for one in group} == {policy.sha256}
    return {one.id: (one.tokens.tolist(), one.logps.tolist()) for group in found.responses for one in group}


def test_engines_sample_from_what_they_received_and_nothing_is_copied(
    workers: tuple[RayEngine, RayLearner], world: World
) -> None:
    engine, learner = workers
    before = answers(engine, world.start)
    policies = [next_policy(learner, world, round) for round in (1, 2)]
    assert learner.direct is not None
    assert learner.direct.sent == 4, "two policies, two engines"
    latest = policies[-1]
    received = answers(engine, latest)
    assert isinstance(latest.weights, HeldByLearner)
    assert latest.weights._copy is None
    assert received != before
    loaded = answers(engine, Policy("policy", 2, latest.sha256, latest.weights.copy(), latest.probe))
    assert loaded == received


def test_an_engine_that_died_loads_a_copy_and_the_next_policy_is_broadcast_again(
    cluster: RayCluster, workers: tuple[RayEngine, RayLearner], world: World
) -> None:
    import ray

    engine, learner = workers
    policy = next_policy(learner, world, 1)
    received = answers(engine, policy)
    ray.kill(engine.pool.groups[0].ranks[0].handle)
    assert answers(engine, policy) == received
    assert isinstance(policy.weights, HeldByLearner)
    assert isinstance(policy.weights.copy(), Stored)
    sent = learner.direct.sent
    following = next_policy(learner, world, 2)
    assert learner.direct.sent == sent + 2
    assert answers(engine, following) != received


def test_a_policy_is_copied_before_the_learner_changes_it_if_it_is_still_in_use(
    workers: tuple[RayEngine, RayLearner], world: World
) -> None:
    engine, learner = workers
    policy = next_policy(learner, world, 1)
    received = answers(engine, policy)
    next_policy(learner, world, 2)
    assert answers(engine, policy) == received


def test_a_learner_that_dies_while_it_publishes_publishes_a_copy(
    cluster: RayCluster, workers: tuple[RayEngine, RayLearner], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    engine, learner = workers
    expected = next_policy(learner, world, 1)
    received = answers(engine, expected)
    call = learner.group.call

    def dies(method: str, *arguments: Any, **named: Any) -> Any:
        if method == "publish":
            monkeypatch.setattr(learner.group, "call", call)
            ray.kill(learner.group.ranks[0].handle)
        return call(method, *arguments, **named)

    learner.start(world.start)
    learner.update(world.lesson, 0, 1)
    monkeypatch.setattr(learner.group, "call", dies)
    policy = learner.publish("policy", 1)
    assert isinstance(policy.weights, Stored)
    assert policy.sha256 == expected.sha256
    assert answers(engine, policy) == received


@pytest.mark.soak
def test_each_tensor_parallel_rank_receives_its_part(world: World) -> None:
    """Two ranks (gloo) of an engine in an actor sample as one rank does, before and after a broadcast."""
    found = []
    for ranks in (1, 2):
        opened = Ray(object_store_mib=100, transfer=Transfer(bucket_mib=1)).open()
        try:
            engine = opened.engine(VLLM(kv_cache_mib=8, tensor_parallel=ranks), world.model)
            learner = opened.learner(DeepSpeed(training=SGD), world.model)
            opened.ready()
            before = answers(engine, world.start)
            after = answers(engine, next_policy(learner, world, 1))
            assert learner.direct.sent == 1
        finally:
            opened.close()
        found.append((before, after))
    assert found[0][0] != found[0][1]
    for one, two in zip(*found, strict=True):
        for id, (tokens, logps) in one.items():
            assert two[id][0] == tokens
            assert two[id][1] == pytest.approx(logps, abs=1e-5)
