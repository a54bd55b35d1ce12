"""A reward model learns, is saved and comes back as a policy does; and its checkpoint says the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
)

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.reward_model import RewardHeadModel, load_classifier, verify
from rlhf_flow.learner.spec import TrainingSpec
from rlhf_flow.learner.torch import Torch
from rlhf_flow.learner.training import Training
from rlhf_flow.objective.bradley_terry import BradleyTerry
from rlhf_flow.objective.general_preference import GeneralPreference
from rlhf_flow.protocols import Learner, Objective, RoundTables, TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy
from rlhf_flow.weights.source import Checkpoint
from tests.support import jobs
from tests.support.classroom import ADAMW, SGD, make_model, make_tables, policy_of
from tests.support.ranks import Ranks

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    tables: RoundTables

    @property
    def ids(self) -> list[str]:
        return self.tables.responses.read(["response"])["response"].to_pylist()

    def lesson(self, objective: Objective) -> TrainingRound:
        return TrainingRound(1, 2, 7, (self.tables,), Table(()), {}, objective)

    def open(self, outputs: int = 1, training: Training = ADAMW, *, seed: int = 0) -> Learner:
        learner = Torch(training=training, head=Head(outputs, seed)).open(self.model, Place())
        learner.start(self.start)
        return learner

    def numbers(self, learner: Learner, policy: Policy) -> np.ndarray:
        return np.array(learner.logps([self.tables.responses], self.ids, policy)["logps"].to_pylist())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    return World(model, policy_of(model), make_tables(folder / "round", prompts=8))


def own(path: Path | str, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """What a checkpoint says of each sequence alone."""
    lm = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.array([lm(input_ids=torch.tensor([row])).logits[0].tolist() for row in rows])


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_checkpoint_says_the_same_numbers(world: World, outputs: int, tmp_path: Path) -> None:
    learner = world.open(outputs)
    learner.update(world.lesson(BradleyTerry() if outputs == 1 else GeneralPreference()), 0, 2)
    policy = learner.publish("policy", 1)
    assert policy.probe is None  # no engine will hold it
    learner.save_policy(tmp_path / "policy")
    read = world.tables.responses.read(["prompt_tokens", "tokens"]).to_pylist()
    expected = own(tmp_path / "policy", [[*row["prompt_tokens"], *row["tokens"]] for row in read])
    np.testing.assert_allclose(world.numbers(learner, policy), expected, atol=1e-5)
    assert np.ptp(expected) > 0.1


def test_it_learns_the_preferences(world: World) -> None:
    learner = world.open(1, replace(ADAMW, epochs=8))
    lesson = world.lesson(BradleyTerry())
    metrics = [learner.update(lesson, step, step + 1) for step in range(learner.steps(lesson))]
    assert metrics[-1]["loss"] < 0.6 * metrics[0]["loss"]


def test_micro_batches_change_nothing_but_rounding(world: World) -> None:
    lesson = world.lesson(GeneralPreference())
    whole, cut = (jobs.learn(world.open(4, replace(SGD, micro_batch=n)), lesson, 0, 2) for n in (8, 3))
    assert cut.losses == pytest.approx(whole.losses, abs=1e-5)
    for name, tensor in whole.weights.items():
        assert torch.allclose(cut.weights[name], tensor, atol=1e-6)


def test_it_goes_on_where_its_state_was_saved(world: World, tmp_path: Path) -> None:
    lesson = world.lesson(BradleyTerry())
    learner = world.open()
    learner.update(lesson, 0, 1)
    learner.save_state(tmp_path / "state")
    straight = jobs.learn(learner, lesson, 1, 2)
    other = Torch(training=ADAMW, head=Head(1)).open(world.model, Place())
    other.load_state(tmp_path / "state")
    assert jobs.learn(other, lesson, 1, 2).policy == straight.policy


def test_a_published_model_is_read_from_its_checkpoint(world: World, tmp_path: Path) -> None:
    learner = world.open()
    learner.update(world.lesson(BradleyTerry()), 0, 2)
    policy = learner.publish("policy", 1)
    learner.save_policy(tmp_path / "policy")
    there = replace(policy, weights=Checkpoint(tmp_path / "policy"))
    np.testing.assert_array_equal(world.numbers(world.open(), there), world.numbers(learner, policy))
    again = replace(world, model=replace(world.model, path=str(tmp_path / "policy")), start=there)
    np.testing.assert_array_equal(again.numbers(again.open(), there), world.numbers(learner, policy))


@pytest.mark.deepspeed
@pytest.mark.parametrize(
    "spec", [FSDP(ranks=2), DeepSpeed(ranks=2, zero_stage=3), DeepSpeed(ranks=2)], ids=["fsdp", "zero 3", "zero 2"]
)
def test_ranks_train_the_same_reward_model(world: World, two: Ranks, spec: TrainingSpec) -> None:
    lesson, head = world.lesson(BradleyTerry()), Head(1)
    plain = jobs.train(Place(), Torch(training=SGD, head=head), world.model, world.start, lesson, 2)
    spec = replace(spec, training=replace(SGD, micro_batch=2), head=head)
    first, second = two.run(jobs.train, spec, world.model, world.start, lesson, 2)
    assert first.policy == second.policy
    assert first.weights.keys() == plain.weights.keys()
    assert all(torch.allclose(first.weights[name], plain.weights[name], rtol=0, atol=1e-6) for name in plain.weights)


def test_a_new_head_is_a_function_of_its_seed(world: World) -> None:
    heads = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        heads.append(world.open(2, seed=seed).publish("policy", 0).weights.load()["score.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].shape == (2, 32)


def test_a_padding_token_that_ends_answers_is_not_passed_on(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    lm = LlamaForSequenceClassification.from_pretrained(model.path, num_labels=1)
    lm.config.pad_token_id = 1  # EOS
    lm.save_pretrained(model.path)
    learner = Torch(head=Head(1)).open(model, Place())
    learner.save_policy(tmp_path / "policy")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "policy").config.pad_token_id is None


def test_another_number_of_outputs_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    LlamaForSequenceClassification.from_pretrained(model.path, num_labels=3).save_pretrained(model.path)
    with pytest.raises(ValueError, match=r"model.path=.*its head has 3 outputs, and learner.head.outputs is 1"):
        load_classifier(model.path, Head(1), revision=None, trust_remote_code=False)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.path=.*cannot be trained as a reward model"):
        load_classifier(str(tmp_path), Head(1), revision=None, trust_remote_code=False)


def test_a_model_that_sees_to_the_right_is_refused(world: World) -> None:
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertForSequenceClassification(BertConfig(**small, intermediate_size=32, num_labels=1))
    with pytest.raises(ValueError, match=r"BertForSequenceClassification has no linear layer `score`"):
        verify(RewardHeadModel(bert.eval()))
    lm = load_classifier(world.model.path, Head(1), revision=None, trust_remote_code=False)
    lm.score.register_forward_hook(lambda module, inputs, output: output * (3 if output.dim() == 3 else 1))
    with pytest.raises(ValueError, match=r"differ from the model's own"):
        verify(RewardHeadModel(lm.eval()))
