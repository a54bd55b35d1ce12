"""DeepSpeed ranks learn what one process learns, and can be stopped anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.torch import Torch
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import RoundTables, TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint
from tests.support import jobs
from tests.support.classroom import ADAMW, SGD, make_lesson, make_model, make_tables, policy_of, write
from tests.support.jobs import Trained
from tests.support.ranks import Ranks

pytestmark = pytest.mark.deepspeed
STAGES = [pytest.param(0, marks=pytest.mark.soak), pytest.param(1, marks=pytest.mark.soak), 2, 3, "fsdp"]


@dataclass(frozen=True)
class World:
    folder: Path
    model: Model
    start: Policy
    tables: RoundTables
    lesson: TrainingRound

    def torch(self, training: Training, steps: int) -> Trained:
        return jobs.train(Place(), Torch(training=training), self.model, self.start, self.lesson, steps)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    start, tables = policy_of(model), make_tables(folder / "round", prompts=37)  # 74 pairs: the tenth batch has 2
    learner = Torch(training=SGD).open(model, Place())
    return World(folder, model, start, tables, make_lesson(folder, [tables], learner, start))


def spread(left: Trained, right: Trained) -> float:
    """The largest difference between two sets of weights."""
    ours, theirs = left.weights, right.weights
    assert ours.keys() == theirs.keys()
    return max((ours[name].float() - theirs[name].float()).abs().max().item() for name in ours)


def spec(ranks: Ranks, stage: int | str, training: Training, **changes: object) -> DeepSpeed | FSDP:
    """A batch of 8 pairs as 4 micro-batches of 2, spread over the ranks. Stage: of ZeRO, or FSDP."""
    training = replace(training, micro_batch=2, **changes)
    if isinstance(stage, str):
        return FSDP(ranks=ranks.size, training=training)
    return DeepSpeed(ranks=ranks.size, zero_stage=stage, training=training)


@pytest.mark.parametrize(
    ("size", "stage"),
    [
        ("one", "fsdp"),
        *(("two", stage) for stage in (1, 2, 3, "fsdp")),
        ("four", "fsdp"),
        *(
            pytest.param(*each, marks=pytest.mark.soak)
            for each in (("one", 0), ("one", 3), ("two", 0), ("four", 2), ("four", 3))
        ),
    ],
)
def test_any_number_of_ranks_and_any_stage_take_the_same_steps(
    world: World, size: str, stage: int | str, request: pytest.FixtureRequest
) -> None:
    ranks: Ranks = request.getfixturevalue(size)
    plain, *others = ranks.run(jobs.train, spec(ranks, stage, SGD), world.model, world.start, world.lesson, 10)
    assert spread(plain, world.torch(SGD, 10)) <= 1e-6
    assert all(other.policy == plain.policy and other.metrics == plain.metrics for other in others)
    adaptive = ranks.run(jobs.train, spec(ranks, stage, ADAMW), world.model, world.start, world.lesson, 10)[0]
    assert np.allclose(adaptive.losses, world.torch(ADAMW, 10).losses, rtol=0, atol=1e-4)


def test_the_first_margin_is_zero(world: World, two: Ranks) -> None:
    trained = two.run(jobs.train, spec(two, 2, SGD), world.model, world.start, world.lesson, 1)[0]
    assert abs(trained.metrics[0]["margin"]) <= 1e-4
    assert trained.losses[0] == pytest.approx(np.log(2), abs=1e-4)


@pytest.mark.parametrize("stage", [2, 3, "fsdp"])
def test_an_anchor_that_is_held_is_read_in_the_only_step(world: World, two: Ranks, stage: int | str) -> None:
    without, whole = replace(world.lesson, anchors=Table(())), replace(SGD, batch=128)
    found = two.run(jobs.train, spec(two, stage, whole), world.model, world.start, without, 1)[0]
    assert found.metrics[0]["margin"] == 0
    assert spread(found, world.torch(whole, 1)) <= 1e-6


def test_ranks_on_one_machine_cannot_be_reached_from_another(world: World, two: Ranks) -> None:
    results = two.run(jobs.train_and_listen, spec(two, 2, SGD), world.model, world.start, world.lesson)
    assert [listens for _, listens in results] == [{"127.0.0.1"}] * 2


@pytest.mark.parametrize("stage", STAGES)
def test_who_loads_what_was_saved_goes_on_bit_for_bit(
    world: World, two: Ranks, two_others: Ranks, one: Ranks, stage: int | str, tmp_path: Path
) -> None:
    through = two.run(
        jobs.train_and_save, spec(two, stage, ADAMW), world.model, world.start, world.lesson, 3, 6, tmp_path
    )[0]
    resumed = two_others.run(jobs.load_and_train, spec(two, stage, ADAMW), world.model, world.lesson, 3, 6, tmp_path)[0]
    assert resumed.policy == through.policy
    assert resumed.losses == through.losses[-3:]
    # With fewer ranks, or none of DeepSpeed's, only rounding differs.
    alone = one.run(jobs.load_and_train, spec(one, 2, ADAMW), world.model, world.lesson, 3, 6, tmp_path)[0]
    plain = jobs.load_and_train(Place(), Torch(training=ADAMW), world.model, world.lesson, 3, 6, tmp_path)
    assert spread(alone, through) <= 5e-5
    assert spread(plain, through) <= 5e-5


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (0, "float32"),
        (2, "bfloat16"),
        (3, "float32"),
        ("fsdp", "bfloat16"),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in ((1, "float32"), (2, "float32"), (1, "bfloat16"))),
        pytest.param(3, "bfloat16", marks=pytest.mark.soak),
    ],
)
def test_ranks_that_step_aside_hold_nothing_meanwhile_and_learn_the_same_bits(
    world: World, two: Ranks, stage: int | str, precision: str, tmp_path: Path
) -> None:
    model = Model(make_model(tmp_path / "model", dtype="bfloat16").path)  # converted, and so not mapped from its file
    arguments = (spec(two, stage, ADAMW, precision=precision), model, policy_of(model), world.lesson, 2, 4)
    plain = two.run(jobs.train_and_save, *arguments, tmp_path / "plain")[0]
    for trained, held in two.run(jobs.train_with_rests, *arguments, tmp_path / "rested"):
        assert trained == plain
        assert held < 1000, "bytes of a model of 50 thousand weights"
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "rested" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("stage", "precision", "tolerance"),
    [
        (0, "float32", 1e-4),
        (3, "float32", 1e-4),
        (2, "bfloat16", 0.3),
        ("fsdp", "float32", 1e-4),
        pytest.param("fsdp", "bfloat16", 0.3, marks=pytest.mark.soak),
        pytest.param(2, "float32", 1e-4, marks=pytest.mark.soak),
        pytest.param(3, "bfloat16", 0.3, marks=pytest.mark.soak),
    ],
)
def test_other_weights_are_scored_and_dropped_again(
    world: World, two: Ranks, stage: int | str, precision: str, tolerance: float, tmp_path: Path
) -> None:
    other = policy_of(make_model(tmp_path / "other", seed=1), name="other")
    wanted = sorted(world.tables.responses.read(["response"])["response"].to_pylist())[::2]
    arguments = (world.model, world.start, other, [world.tables.responses], wanted, world.lesson)
    own = spec(two, stage, ADAMW, precision=precision)
    first, second = two.run(jobs.score, own, *arguments)
    assert first.start.equals(second.start)
    assert first.other.equals(second.other)
    assert first.before == first.after == world.start.sha256
    assert first.start.equals(first.again)
    plain = jobs.score(Place(), Torch(training=ADAMW), *arguments)
    for ours, theirs in ((first.start, plain.start), (first.other, plain.other)):
        assert ours.select(["response", "policy"]).equals(theirs.select(["response", "policy"]))
        assert flat(ours) == pytest.approx(flat(theirs), abs=tolerance)
    assert first.spread.equals(second.spread)
    assert first.spread.select(first.other.column_names).equals(first.other)
    for column in ("entropy", "mass"):
        assert flat(first.spread, column) == pytest.approx(flat(plain.spread, column), abs=tolerance)
    untouched = two.run(jobs.train, own, world.model, world.start, world.lesson, 2)[0]
    assert first.trained.policy.sha256 == untouched.policy.sha256


def flat(table: pa.Table, column: str = "logps") -> np.ndarray:
    return np.concatenate([np.asarray(numbers.values) for numbers in table[column]])


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_stops_all_ranks_and_moves_no_weight(
    world: World, two: Ranks, stage: int | str, tmp_path: Path
) -> None:
    anchors = world.lesson.anchors.read().to_pylist()
    bad = anchors[5]["response"]
    for row in anchors:
        row["logps"] = [float("inf") for _ in row["logps"]] if row["response"] == bad else row["logps"]
    broken = replace(world.lesson, anchors=write(pa.Table.from_pylist(anchors), tmp_path))
    everything = replace(spec(two, stage, ADAMW), training=replace(ADAMW, batch=80, micro_batch=2, epochs=3))
    results = two.run(jobs.stumble, everything, world.model, world.start, broken, world.lesson)
    for said, left, _ in results:
        assert bad in said
        assert left == world.start.sha256
    fresh = two.run(jobs.train, everything, world.model, world.start, world.lesson, 3)[0]
    assert results[0][2] == fresh


@pytest.mark.parametrize("stage", STAGES[1:])
def test_bfloat16_learns_with_float32_masters(
    world: World, two: Ranks, two_others: Ranks, stage: int | str, tmp_path: Path
) -> None:
    half = spec(two, stage, ADAMW, precision="bfloat16")
    through = two.run(jobs.train_and_save, half, world.model, world.start, world.lesson, 3, 6, tmp_path)[0]
    resumed = two_others.run(jobs.load_and_train, half, world.model, world.lesson, 3, 6, tmp_path)[0]
    assert resumed.policy == through.policy
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in through.weights.values())
    full = world.torch(ADAMW, 6)
    assert np.allclose(through.losses, full.losses[-3:], rtol=0, atol=0.1)
    assert spread(through, full) <= 2e-2


@pytest.mark.parametrize("stage", [2, 3, "fsdp"])
def test_checkpointed_layers_and_tied_weights(world: World, two: Ranks, stage: int | str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", tied=True)
    start = policy_of(model)
    lesson = make_lesson(tmp_path, [world.tables], Torch(training=SGD).open(model, Place()), start)
    plain = jobs.train(Place(), Torch(training=SGD), model, start, lesson, 10)
    frugal = spec(two, stage, SGD, gradient_checkpointing="full", chunk=5)
    trained = two.run(jobs.train, frugal, model, start, lesson, 10)[0]
    assert spread(trained, plain) <= 1e-6
    assert torch.equal(trained.weights["lm_head.weight"], trained.weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("stage", [3, "fsdp"])
def test_round_after_round(world: World, two: Ranks, two_others: Ranks, stage: int | str, tmp_path: Path) -> None:
    """The engine stays; a policy that comes from disk gives the same next round as one that was kept."""
    training = replace(ADAMW, batch=16)
    half = replace(spec(two, stage, training), training=replace(training, precision="bfloat16"))
    model = replace(world.model, dtype="bfloat16")
    lessons = [world.lesson, replace(world.lesson, round=2, objective=replace(world.lesson.objective, beta=0.2))]
    policies = two.run(jobs.rounds, half, model, world.start, lessons, tmp_path / "a")[0]
    assert policies[0].sha256 != policies[1].sha256
    for policy in policies:
        saved = Checkpoint(tmp_path / "a" / str(policy.round) / "policy").load()
        assert fingerprint(saved) == policy.sha256
        assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    resumed = two_others.run(jobs.rounds, half, model, policies[0], lessons[1:], tmp_path / "b")[0]
    assert resumed[-1].sha256 == policies[-1].sha256
    assert resumed[-1].probe == policies[-1].probe


@pytest.mark.parametrize("stage", [2, 3])
def test_a_users_own_settings_are_merged(world: World, two: Ranks, stage: int | str, tmp_path: Path) -> None:
    """Small buckets, optimizer and weights in the memory of the host: neither training nor saving minds."""
    away = {"offload_optimizer": {"device": "cpu"}} | ({"offload_param": {"device": "cpu"}} if stage == 3 else {})
    settings = {"stage": "auto", "reduce_bucket_size": 4096, **away}
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": settings}))
    own = replace(spec(two, stage, ADAMW), config=str(tmp_path / "ds.json"))
    state = tmp_path / "state"
    through = two.run(jobs.train_and_save, own, world.model, world.start, world.lesson, 3, 6, state)[0]
    assert np.allclose(through.losses, world.torch(ADAMW, 6).losses[-3:], rtol=0, atol=1e-4)
    resumed = two.run(jobs.load_and_train, own, world.model, world.lesson, 3, 6, state)[0]
    assert resumed.policy == through.policy
    elsewhere = jobs.load_and_train(Place(), Torch(training=ADAMW), world.model, world.lesson, 3, 6, state)
    assert spread(elsewhere, through) <= 5e-5
