"""The learner keeps what it promises to the loop; here in one process."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_flow.learner.attention import Line
from rlhf_flow.learner.optimizer import Optimizer
from rlhf_flow.learner.torch import Torch
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import Learner, RoundTables, TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint, InMemoryWeights
from tests.support import jobs
from tests.support.classroom import ADAMW, SGD, make_lesson, make_model, make_tables, policy_of, write

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    tables: RoundTables
    lesson: TrainingRound

    def open(self, training: Training = ADAMW) -> Learner:
        learner = Torch(training=training).open(self.model, Place())
        learner.start(self.start)
        return learner


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    start, tables = policy_of(model), make_tables(folder / "round", prompts=12)
    learner = Torch().open(model, Place())
    return World(model, start, tables, make_lesson(folder, [tables], learner, start))


def test_it_learns_the_preferences(world: World) -> None:
    learner = world.open(replace(ADAMW, epochs=8))
    steps = learner.steps(world.lesson)
    assert steps == 8 * 3
    metrics = [learner.update(world.lesson, step, step + 1) for step in range(steps)]
    assert metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert metrics[-1]["loss"] < 0.5
    assert metrics[-1]["accuracy"] > metrics[0]["accuracy"]


def test_steps_in_one_call_are_steps_one_by_one(world: World) -> None:
    at_once, one_by_one = world.open(), world.open()
    means = dict(at_once.update(world.lesson, 0, 3))
    singles = [dict(one_by_one.update(world.lesson, step, step + 1)) for step in range(3)]
    assert at_once.publish("policy", 1) == one_by_one.publish("policy", 1)
    pairs = [single.pop("pairs") for single in singles]
    weights = world.tables.pairs.read(["weight"])["weight"].to_pylist()
    assert means.pop("pairs") == sum(pairs) == sum(weights) != len(weights)
    assert means == pytest.approx(
        {key: np.average([single[key] for single in singles], weights=pairs) for key in singles[0]}
    )
    assert at_once.update(world.lesson, 3, 3) == {}


def test_a_lesson_may_span_rounds(world: World, tmp_path: Path) -> None:
    tables = [world.tables, make_tables(tmp_path / "2", round=2, prompts=5)]
    learner = world.open()
    both = make_lesson(tmp_path, tables, learner, world.start)
    assert learner.steps(both) == -(-(24 + 10) // 8)
    assert learner.update(both, 0, learner.steps(both))["loss"] > 0
    past, recent = (replace(both, tables=(table,)) for table in tables)
    assert (learner.steps(past), learner.steps(recent)) == (3, 2)


def test_an_anchor_that_is_held_is_read_in_the_only_step_of_a_round(world: World) -> None:
    without, whole = replace(world.lesson, anchors=Table(())), replace(SGD, batch=64)
    learner, start = world.open(whole), world.start.sha256
    assert learner.computes_anchor(without, start)
    assert not learner.computes_anchor(without, "of another policy")
    found, expected = (
        jobs.learn(one, lesson, 0, 1) for one, lesson in ((learner, without), (world.open(whole), world.lesson))
    )
    assert found.metrics[0]["margin"] == 0
    assert found.losses == pytest.approx(expected.losses, abs=1e-6)
    assert all(torch.allclose(found.weights[name], tensor, atol=1e-6) for name, tensor in expected.weights.items())
    assert not learner.computes_anchor(without, start)  # it holds other weights now
    assert learner.computes_anchor(without, found.policy.sha256)


def test_an_anchor_of_several_steps_or_of_rounded_weights_is_not_read_in_the_step(world: World) -> None:
    without = replace(world.lesson, anchors=Table(()))
    several = world.open(SGD)
    assert not several.computes_anchor(without, world.start.sha256)
    with pytest.raises(KeyError, match="no log-probs of response"):
        several.update(without, 0, 1)
    rounded = Torch(training=replace(SGD, batch=64)).open(replace(world.model, dtype="bfloat16"), Place())
    rounded.start(world.start)
    assert not rounded.computes_anchor(without, world.start.sha256)


def test_a_line_that_is_read_wrongly_on_the_device_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = world.open()
    monkeypatch.setattr(Line, "_placed", lambda self, places: torch.from_numpy(np.maximum(places - 1, 0)))
    with pytest.raises(ValueError, match="nats a token between rows that share their prompt and padded rows"):
        learner.update(world.lesson, 0, 1)


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_micro_batches_change_nothing_but_rounding(world: World, micro_batch: int) -> None:
    whole = jobs.learn(world.open(SGD), world.lesson, 0, 3)
    cut = jobs.learn(world.open(replace(SGD, micro_batch=micro_batch, chunk=7)), world.lesson, 0, 3)
    assert cut.losses == pytest.approx(whole.losses, abs=1e-5)
    for name, tensor in whole.weights.items():
        assert torch.allclose(cut.weights[name], tensor, atol=1e-6)


def test_clipping_bounds_the_step(world: World) -> None:
    moves = []
    for clip in (0.01, None):
        learner = world.open(replace(SGD, clip=clip, optimizer=Optimizer(name="sgd", lr=1.0)))
        metrics = learner.update(world.lesson, 0, 1)
        after, before = learner.publish("policy", 1).weights.load(), world.start.weights.load()
        moves.append(sum((after[name] - before[name]).square().sum().item() for name in after) ** 0.5)
        assert moves[-1] == pytest.approx(clip if clip is not None else metrics["gradient_norm"], rel=1e-3)
    assert moves[0] < moves[1]


def test_the_rate_follows_the_schedule_through_all_rounds(world: World) -> None:
    learner = world.open()
    rates = [
        learner.update(replace(world.lesson, round=round), step, step + 1)["learning_rate"]
        for round in (1, 2)
        for step in range(3)
    ]
    schedule, lr = ADAMW.schedule, ADAMW.optimizer.lr
    assert rates == pytest.approx([lr * schedule.factor((step + 0.5) / 6) for step in range(6)])


# -- publishing -------------------------------------------------------------------------------------------------------


def test_a_policy_is_named_by_its_weights(world: World) -> None:
    learner = world.open()
    unchanged = learner.publish("policy", 0)
    assert unchanged.sha256 == world.start.sha256
    assert unchanged.probe is None  # no lesson yet: nothing to prove it with
    learner.update(world.lesson, 0, 1)
    policy = learner.publish("half", 3)
    assert (policy.name, policy.round) == ("half", 3)
    assert policy.sha256 == fingerprint(policy.weights.load()) != world.start.sha256
    kept = {name: tensor.clone() for name, tensor in policy.weights.load().items()}
    learner.update(world.lesson, 1, 2)
    assert fingerprint(kept) == fingerprint(policy.weights.load())  # learning on does not move what was published
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_probe_is_what_a_plain_forward_pass_says(world: World, dtype: str) -> None:
    learner = replace(world, model=replace(world.model, dtype=dtype)).open()
    learner.update(world.lesson, 0, 2)
    policy = learner.publish("policy", 1)
    probe = policy.probe
    assert probe is not None
    lm = AutoModelForCausalLM.from_pretrained(world.model.path, dtype=torch.float32)
    lm.load_state_dict(policy.weights.load())
    tokens = torch.tensor([probe.tokens])
    logps = lm(input_ids=tokens).logits[0].double().log_softmax(-1)
    expected = logps[probe.prompt - 1 : -1].gather(-1, tokens[0, probe.prompt :, None])[:, 0]
    assert list(probe.logps) == pytest.approx(expected.tolist(), abs=1e-4)
    first = world.tables.pairs.read()["first"][0].as_py()
    row = next(row for row in world.tables.responses.read().to_pylist() if row["response"] == first)
    assert list(probe.tokens) == row["prompt_tokens"] + row["tokens"]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_the_policy(world: World, tmp_path: Path, tied: bool, dtype: str) -> None:
    model = replace(make_model(tmp_path / "start", tied=tied), dtype=dtype)
    learner = Torch(training=ADAMW).open(model, Place())
    learner.start(policy_of(model))
    learner.update(replace(world.lesson), 0, 1)
    policy = learner.publish("policy", 1)
    learner.save_policy(tmp_path / "policy")
    assert fingerprint(Checkpoint(tmp_path / "policy").load()) == policy.sha256
    assert json.loads((tmp_path / "policy/config.json").read_text())["dtype"] == dtype
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token == "w1"


def test_a_checkpoint_inherits_no_sampling_default(world: World, tmp_path: Path) -> None:
    assert "temperature" in (Path(world.model.path) / "generation_config.json").read_text()
    world.open().save_policy(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    saved.pop("transformers_version")
    assert saved == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


# -- log-probs --------------------------------------------------------------------------------------------------------


def test_log_probs_come_in_the_order_of_the_wanted(world: World) -> None:
    learner = world.open()
    wanted = world.tables.responses.read(["response"])["response"].to_pylist()[::-2]
    table = learner.logps([world.tables.responses], wanted, world.start)
    assert table["response"].to_pylist() == wanted
    assert set(table["policy"].to_pylist()) == {world.start.sha256}
    rows = {row["response"]: row["tokens"] for row in world.tables.responses.read().to_pylist()}
    assert [len(logps) for logps in table["logps"].to_pylist()] == [len(rows[id]) for id in wanted]
    assert learner.logps([world.tables.responses], [], world.start).num_rows == 0


def test_log_probs_do_not_depend_on_the_batch(world: World) -> None:
    wanted = world.tables.responses.read(["response"])["response"].to_pylist()
    found = [
        world.open(replace(ADAMW, micro_batch=size)).logps([world.tables.responses], wanted, world.start)
        for size in (1, 4, 50)
    ]
    values = [np.concatenate(table["logps"].to_numpy()) for table in found]
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    assert values[2] == pytest.approx(values[0], abs=1e-5)


def test_scoring_other_weights_leaves_weights_and_moments_alone(world: World, tmp_path: Path) -> None:
    other = policy_of(make_model(tmp_path, seed=5))
    wanted = world.tables.responses.read(["response"])["response"].to_pylist()
    learner, plain = world.open(), world.open()
    for each in (learner, plain):
        each.update(world.lesson, 0, 2)
    theirs = learner.logps([world.tables.responses], wanted, other)
    fresh = Torch().open(replace(world.model, path=str(tmp_path)), Place())
    fresh.start(other)
    assert theirs.equals(fresh.logps([world.tables.responses], wanted, other))
    assert jobs.learn(learner, world.lesson, 2, 3) == jobs.learn(plain, world.lesson, 2, 3)


def test_the_log_probs_of_a_policy_are_those_of_what_was_published(world: World) -> None:
    """Published in bfloat16: not of the float32 weights behind it, which go on as if nobody had asked."""
    rounded = replace(world, model=replace(world.model, dtype="bfloat16"))
    wanted = world.tables.responses.read(["response"])["response"].to_pylist()
    learner, plain = rounded.open(), rounded.open()
    for each in (learner, plain):
        each.update(world.lesson, 0, 2)
    policy = learner.publish("policy", 1)
    ours = learner.logps([world.tables.responses], wanted, policy)
    fresh = rounded.open()
    assert ours.equals(fresh.logps([world.tables.responses], wanted, policy))
    fresh.start(policy)
    assert ours.equals(fresh.logps([world.tables.responses], wanted, policy))
    assert jobs.learn(learner, world.lesson, 2, 3) == jobs.learn(plain, world.lesson, 2, 3)
    # A start in float32 is sampled from in bfloat16, and saved so by a round without pairs.
    saved = replace(
        world.start,
        weights=InMemoryWeights({name: tensor.bfloat16() for name, tensor in world.start.weights.load().items()}),
    )
    start, other = rounded.open(), learner
    assert start.logps([world.tables.responses], wanted, world.start).equals(
        other.logps([world.tables.responses], wanted, saved)
    )


def test_the_spread_is_that_of_the_models_own_logits(world: World) -> None:
    """Of the policy that is named, whichever is held; with the log-probs of `logps`, bit for bit."""
    learner = world.open()
    learner.update(world.lesson, 0, 2)
    moved = learner.publish("policy", 1)
    responses = world.tables.responses.read().to_pylist()
    wanted = [row["response"] for row in responses][::-1]
    for policy in (world.start, moved):
        found = learner.spread([world.tables.responses], wanted, policy)
        assert found.select(["response", "policy", "logps"]).equals(
            learner.logps([world.tables.responses], wanted, policy)
        )
        lm = AutoModelForCausalLM.from_pretrained(world.model.path)
        lm.load_state_dict(policy.weights.load())
        for row, entropy, mass in zip(responses[::-1], found["entropy"], found["mass"], strict=True):
            tokens, first = torch.tensor([[*row["prompt_tokens"], *row["tokens"]]]), len(row["prompt_tokens"])
            top = lm(input_ids=tokens).logits[0, first - 1 : -1].double().softmax(-1).topk(10, dim=-1).values  # [T, k]
            assert mass.as_py() == pytest.approx(top.sum(-1).tolist(), abs=1e-5)
            among = torch.distributions.Categorical(probs=top)
            assert entropy.as_py() == pytest.approx(among.entropy().tolist(), abs=1e-4)
    assert learner.publish("policy", 1).sha256 == moved.sha256
    assert learner.spread([world.tables.responses], [], moved).num_rows == 0


def test_weights_of_another_model_are_refused(world: World) -> None:
    learner = world.open()
    wrong = replace(world.start, sha256="x", weights=InMemoryWeights({"model.norm.weight": torch.zeros(32)}))
    with pytest.raises(ValueError, match=r"these weights do not fit .*missing \["):
        learner.start(wrong)
    shape = {name: tensor[:1] for name, tensor in world.start.weights.load().items()}
    with pytest.raises(ValueError, match=r"is \(1, 32\), not \(128, 32\)"):
        learner.logps([world.tables.responses], ["1/policy/0/p0"], replace(wrong, weights=InMemoryWeights(shape)))
    assert learner.publish("policy", 0).sha256 == world.start.sha256


# -- state ------------------------------------------------------------------------------------------------------------


def test_who_loads_what_was_saved_goes_on_bit_for_bit(world: World, tmp_path: Path) -> None:
    through = jobs.train_and_save(
        Place(), Torch(training=ADAMW), world.model, world.start, world.lesson, 1, 3, tmp_path
    )
    resumed = jobs.load_and_train(Place(), Torch(training=ADAMW), world.model, world.lesson, 1, 3, tmp_path)
    assert resumed.policy == through.policy
    assert resumed.metrics == through.metrics
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-00000.safetensors", "state.json"]


def test_a_policy_from_disk_and_one_in_memory_start_the_same_round(world: World, tmp_path: Path) -> None:
    """Published in bfloat16, so that its weights alone would not do."""
    rounded = replace(world, model=replace(world.model, dtype="bfloat16"))
    learner = rounded.open()
    learner.update(world.lesson, 0, 3)
    learner.save_state(tmp_path)
    policy = learner.publish("policy", 1)
    learner.start(policy)
    again = rounded.open()
    again.start(replace(policy, state=tmp_path))
    lesson = replace(world.lesson, round=2)
    kept, loaded = jobs.learn(learner, lesson, 0, 3), jobs.learn(again, lesson, 0, 3)
    assert kept == loaded
    assert kept.policy.probe == loaded.policy.probe


def test_weights_keep_the_name_under_which_they_were_started(world: World, tmp_path: Path) -> None:
    start = replace(world.start, sha256="named by its files")
    learner = Torch(training=ADAMW).open(world.model, Place())
    learner.start(start)
    learner.save_state(tmp_path)
    again = Torch(training=ADAMW).open(world.model, Place())
    again.start(replace(start, state=tmp_path))
    assert again.publish("policy", 1) == learner.publish("policy", 1)
    assert again.publish("policy", 1).sha256 == start.sha256
    trained = jobs.learn(again, world.lesson, 0, 1)
    assert trained.policy.sha256 == fingerprint(trained.weights)


def test_a_state_that_is_not_the_policys_is_refused(world: World, tmp_path: Path) -> None:
    learner = world.open()
    learner.update(world.lesson, 0, 1)
    learner.save_state(tmp_path)
    with pytest.raises(ValueError, match="holds the weights"):
        learner.start(replace(world.start, sha256="another", state=tmp_path))


def test_the_state_of_another_optimizer_is_refused(world: World, tmp_path: Path) -> None:
    world.open(SGD).save_state(tmp_path)
    with pytest.raises(ValueError, match=r"optimizer.name is adamw, but .* holds the state of sgd"):
        world.open(ADAMW).load_state(tmp_path)


def test_moments_are_carried_or_start_anew(world: World) -> None:
    losses = {}
    for kind in ("carry", "fresh"):
        learner = world.open(replace(ADAMW, optimizer_state=kind))
        learner.update(world.lesson, 0, 3)
        middle = learner.publish("policy", 1)
        learner.start(middle)
        losses[kind] = jobs.learn(learner, world.lesson, 0, 3)
        if kind == "fresh":
            alone = world.open(ADAMW)
            alone.start(middle)
            assert jobs.learn(alone, world.lesson, 0, 3) == losses["fresh"]
    assert losses["carry"].policy.sha256 != losses["fresh"].policy.sha256


def test_starting_from_other_weights_forgets_the_moments(world: World) -> None:
    learner = world.open()
    first = jobs.learn(learner, world.lesson, 0, 3)
    learner.start(world.start)
    assert jobs.learn(learner, world.lesson, 0, 3) == first


def test_a_truncated_state_is_not_loaded(world: World, tmp_path: Path) -> None:
    learner = world.open()
    learner.save_state(tmp_path)
    path = tmp_path / "rank-00000.safetensors"
    tensors = load_file(path)
    tensors.pop("weight/model.norm.weight")
    save_file(tensors, path)
    with pytest.raises(Exception, match=r"model\.norm\.weight"):
        learner.load_state(tmp_path)


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_moves_no_weight(world: World, tmp_path: Path) -> None:
    anchors = world.lesson.anchors.read().to_pylist()
    anchors[3]["logps"] = [float("nan") for _ in anchors[3]["logps"]]
    broken = replace(world.lesson, anchors=write(pa.Table.from_pylist(anchors), tmp_path))
    said, left, trained = jobs.stumble(
        Place(), Torch(training=replace(ADAMW, batch=24, epochs=3)), world.model, world.start, broken, world.lesson
    )
    assert anchors[3]["response"] in said
    assert left == world.start.sha256
    assert trained.losses[0] == pytest.approx(np.log(2), abs=1e-4)


def test_a_lesson_without_pairs_has_no_steps(world: World) -> None:
    empty = replace(world.lesson, tables=(replace(world.tables, pairs=Table(())),))
    learner = world.open()
    assert learner.steps(empty) == 0
    assert learner.update(empty, 0, 0) == {}
    assert learner.publish("policy", 1).sha256 == world.start.sha256


def test_bfloat16_keeps_float32_weights(world: World) -> None:
    learner = world.open(replace(ADAMW, precision="bfloat16", epochs=4))
    losses = jobs.learn(learner, world.lesson, 0, 12).losses
    assert losses[-1] < losses[0]
    weights = learner.publish("policy", 1).weights.load()
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in weights.values())
