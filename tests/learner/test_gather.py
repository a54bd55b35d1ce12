"""A learner gathers its weights in buckets; their size changes neither a policy's name nor its checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.torch import Torch
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint, InMemoryWeights
from tests.support import jobs
from tests.support.classroom import SGD, make_lesson, make_model, make_tables, policy_of
from tests.support.ranks import Ranks

pytestmark = pytest.mark.slow

SIZES = (1, 20_000, 1 << 30)  # bytes: every tensor alone, several buckets, one bucket


@dataclass(frozen=True)
class World:
    tied: bool
    model: Model
    start: Policy
    lesson: TrainingRound


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model", tied=request.param)
    start, tables = policy_of(model), make_tables(folder / "round")
    return World(
        request.param, model, start, make_lesson(folder, [tables], Torch(training=SGD).open(model, Place()), start)
    )


def learned(world: World, bucket: int, folder: Path) -> jobs.Saved:
    return jobs.learn_and_save(Place(), bucket, Torch(training=SGD), world.model, world.start, world.lesson, folder)


def test_a_policy_has_one_name_whatever_the_size_of_buckets(world: World, tmp_path: Path) -> None:
    saved = [learned(world, bucket, tmp_path / str(bucket)) for bucket in SIZES]
    names = {one.policy.sha256 for one in saved} | {one.state for one in saved}
    assert names == {fingerprint(one.policy.weights.load()) for one in saved} != {world.start.sha256}
    assert len(names) == 1
    assert {fingerprint(Checkpoint(tmp_path / str(bucket) / "policy").load()) for bucket in SIZES} == names


def test_several_buckets_are_the_shards_of_a_checkpoint(world: World, tmp_path: Path) -> None:
    policy = learned(world, SIZES[1], tmp_path).policy
    files = sorted(path.name for path in (tmp_path / "policy").glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    index = json.loads((tmp_path / "policy/model.safetensors.index.json").read_text())
    where = {name: file for file in files for name in load_file(tmp_path / "policy" / file)}
    assert index["weight_map"] == where
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in files for tensor in load_file(tmp_path / "policy" / file).values()
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert fingerprint(loaded.state_dict()) == policy.sha256


def test_the_hashes_of_all_weight_files_and_states_are_returned(world: World, tmp_path: Path) -> None:
    learner = Torch(training=SGD).open(world.model, Place(bucket=SIZES[1]))
    learner.start(world.start)
    learner.update(world.lesson, 0, 1)
    for folder, save in ((tmp_path / "policy", learner.save_policy), (tmp_path / "state", learner.save_state)):
        found = save(folder)
        files = sorted(folder.glob("*.safetensors"))
        assert found == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert files


def test_one_bucket_is_the_file_that_a_small_model_always_had(world: World, tmp_path: Path) -> None:
    learned(world, SIZES[-1], tmp_path)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    lm.save_pretrained(tmp_path / "theirs")
    (ours,) = (tmp_path / "policy").glob("*.safetensors*")
    theirs = tmp_path / "theirs/model.safetensors"
    assert ours.name == theirs.name
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_average_is_the_same_in_any_buckets(world: World, tmp_path: Path) -> None:
    names = set()
    for bucket in SIZES:
        learner = Torch(training=SGD).open(world.model, Place(bucket=bucket))
        learner.start(world.start)
        learner.update(world.lesson, 0, 2)
        policy = learner.publish("policy", 1)
        mean = learner.average("ema", 1, [(world.start, 0.25), (policy, 0.75)])
        states = world.start.weights.load(), policy.weights.load(), mean.weights.load()
        for name, tensor in states[2].items():
            torch.testing.assert_close(tensor, 0.25 * states[0][name] + 0.75 * states[1][name])
        names |= {mean.sha256, fingerprint(states[2])}
        learner.save_policy(tmp_path / str(bucket), mean)
        names.add(fingerprint(Checkpoint(tmp_path / str(bucket)).load()))
    assert len(names) == 1


def test_a_moving_average_of_bfloat16_arrives(tmp_path: Path) -> None:
    """Its steps are smaller than the last digit of bfloat16, so it is held, saved and read in float32."""
    model = make_model(tmp_path / "model", dtype="bfloat16")
    learner = Torch(training=SGD).open(model, Place())
    policy = policy_of(make_model(tmp_path / "other", dtype="bfloat16"))
    start = {name: tensor * (1 - 2**-7) for name, tensor in policy.weights.load().items()}
    mean = Policy("ema", 0, fingerprint(start), InMemoryWeights(start))
    learner.start(policy)
    for round in range(100):
        mean = learner.average("ema", round, [(mean, 0.9), (policy, 0.1)])
        if round == 50:
            learner.save_policy(tmp_path / "saved", mean)
            mean = replace(mean, weights=Checkpoint(tmp_path / "saved"))
    ends, found = policy.weights.load(), mean.weights.load()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    left = sum(float((ends[name].float() - found[name]).norm() ** 2) for name in ends)
    way = sum(float((ends[name].float() - start[name].float()).norm() ** 2) for name in ends)
    assert (left / way) ** 0.5 < 0.01


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.soak) for stage in (1, 2)), 3])
def test_ranks_gather_the_same_in_any_buckets(world: World, two: Ranks, stage: int, tmp_path: Path) -> None:
    spec, names = DeepSpeed(ranks=2, zero_stage=stage, training=SGD), set()
    for bucket in SIZES:
        folder = tmp_path / str(bucket)
        asked = (bucket, spec, world.model, world.start, world.lesson, folder)
        first, second = two.run(jobs.learn_and_save, *asked)
        assert second.policy.weights.load() == {}  # the whole model is on no other rank
        assert first.policy.sha256 == second.policy.sha256 == first.state == second.state
        names |= {first.policy.sha256, fingerprint(first.policy.weights.load())}
        names.add(fingerprint(Checkpoint(folder / "policy").load()))
    assert len(names) == 1


@pytest.mark.deepspeed
def test_sharded_weights_are_gathered_with_one_collective_per_bucket(world: World, two: Ranks) -> None:
    spec = DeepSpeed(ranks=2, zero_stage=3, training=SGD)
    for gathers, messages, buckets in two.run(
        jobs.count_collectives, SIZES[1], spec, world.model, world.start, world.lesson
    ):
        assert buckets > 2
        assert (gathers, messages) == (buckets, 0)
