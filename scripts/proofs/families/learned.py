"""Train and publish a policy of each architecture, and record what transformers answers with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from families.answers import Answers, drawn, expected
from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint
from tests.support.classroom import SGD, make_lesson, make_tables

ENDS = (2,)  # the end token of `tests.support.tokenizer`


@dataclass(frozen=True)
class Learned:
    """A published policy, and the answers that an engine must give with it."""

    start: Path
    published: Path  # a checkpoint, or the folder of an adapter
    policy: Policy
    before: Answers  # of the start, by transformers
    after: Answers  # of what was published


def learn(start: Path, folder: Path, *, rank: int = 0) -> Learned:
    """Train on random pairs and publish; with `rank`, an adapter of that rank. Raises ValueError if refused."""
    model = Model(str(start))
    spec = Torch(training=SGD, lora=LoRA(rank=rank))
    learner = spec.open(model, Place(bucket=50_000))
    policy = start_of(start)
    lesson = make_lesson(folder, [make_tables(folder / "round")], learner, policy)
    learner.start(policy)
    learner.update(lesson, 0, learner.steps(lesson))
    policy = learner.publish("policy", 1)
    learner.save_policy(folder / "policy")
    before = _load(start)
    after = _with(before, policy) if rank else _load(folder / "policy")
    return Learned(start, folder / "policy", policy, expected(_load(start), ENDS), expected(after, ENDS))


def start_of(folder: Path) -> Policy:
    return Policy("policy", 0, checkpoint_fingerprint(folder), Checkpoint(folder))


def by_huggingface(learned: Learned) -> float:
    """The largest error of engine=huggingface in nats: on the start, given the policy, and opened on the policy."""
    engine = HuggingFace().open(Model(str(learned.start)), Place())
    found = [
        drawn(engine, start_of(learned.start)).off(learned.before),
        drawn(engine, learned.policy).off(learned.after),
    ]
    if (learned.published / "config.json").exists():
        second = HuggingFace().open(Model(str(learned.published)), Place())
        found.append(drawn(second, start_of(learned.published)).off(learned.after))
    return max(found)


def _load(folder: Path) -> PreTrainedModel:
    lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return lm.eval()


def _with(lm: PreTrainedModel, policy: Policy) -> PreTrainedModel:
    """The model with the merged weights of base and adapter."""
    lm.load_state_dict(policy.weights.load())
    return lm
