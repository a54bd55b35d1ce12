"""Ranks and engines between which weights travel straight, and that die or are busy when a test says so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.cluster.ray import RayCluster, RayEngine, RayLearner
from rlhf_flow.cluster.weight_sync.object_store import Stored
from rlhf_flow.engine.huggingface import HuggingFace, HuggingFaceEngine
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.backend import Backend, Parameter, Part
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.preference_learner import PreferenceLearner
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Model, Place
from rlhf_flow.storage.tables import TrainingRound
from rlhf_flow.types import Message, Policy, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.source import Checkpoint, checkpoint_fingerprint, fingerprint
from tests.support.classroom import RESPONSES, SGD, make_lesson, make_model, make_tables, write

RANK_DIES, ENGINE_DIES, BUSY = "rank dies", "engine dies", "busy"  # files that tell a process what to do
PROMPTS = tuple(Prompt(f"p{i}", (Message("user", f"w{i}"),), (3 + i, 9)) for i in range(8))


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


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    lesson: TrainingRound
    folder: Path


@dataclass
class Dying:
    """The gathering of a backend that dies in the middle, once a file says that this rank shall."""

    backend: Backend
    armed: Path
    calls: int = 0

    def whole(self, parameter: Parameter, part: Part, **how: object) -> Tensor | None:
        self.calls += self.armed.exists() and self.armed.read_text() == str(self.backend.rank)
        if self.calls == 8:
            self.armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return type(self.backend).whole(self.backend, parameter, part, **how)


class Occupied(PreferenceLearner):
    """A learner that is busy for as long as a file is there."""

    busy: Path

    def steps(self, lesson: TrainingRound) -> int:
        self.busy.with_suffix(".began").touch()
        wait(lambda: not self.busy.exists())
        return super().steps(lesson)


@dataclass(frozen=True)
class Ranks(DeepSpeed):
    folder: Path = Path()  # of the files that tell it what to do
    ranks: int = 2
    zero_stage: int = 3

    def open(self, model: Model, place: Place) -> PreferenceLearner:
        # Buckets of some kilobytes, so that a small model has many.
        learner = super().open(model, replace(place, bucket=20_000))
        assert isinstance(learner, PreferenceLearner)
        learner.backend.whole = Dying(learner.backend, self.folder / RANK_DIES).whole
        learner.__class__ = Occupied
        learner.busy = self.folder / BUSY
        return learner


@dataclass(frozen=True)
class Fragile(TellingSpec):
    """An engine that dies while it loads, once a file tells it to."""

    armed: Path = Path()

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> HuggingFaceEngine:
        engine = super().open(model, place, mixes=mixes)
        put = engine._slots._put

        def fragile(slot: int, tensors: Iterator[tuple[str, Tensor]]) -> None:
            with suppress(FileNotFoundError):
                self.armed.unlink()
                next(tensors)
                os.kill(os.getpid(), signal.SIGKILL)
            put(slot, tensors)

        engine._slots._put = fragile
        return engine


def make_world(folder: Path) -> World:
    model = make_model(folder / "model")
    path = Path(model.path)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(path, head_dim=32)).save_pretrained(path)  # vLLM's least on a CPU
    start, tables = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path)), make_tables(folder / "round")
    return World(model, start, make_lesson(folder, [tables], Torch(training=SGD).open(model, Place()), start), folder)


def learn(learner: RayLearner, world: World, round: int) -> Policy:
    if round == 1:
        learner.start(world.start)
    learner.update(world.lesson, 0, 1)
    return learner.publish("policy", round)


def told(engine: RayEngine, policy: Policy) -> str:
    return engine.generate(PROMPTS[:1], policy, SamplingParams(max_tokens=2), round=1, seed=0)


def hollow(policy: Policy) -> Policy:
    """The same policy, of which nothing is kept: it can only come from the learner."""
    assert isinstance(policy.weights, Stored)
    assert len(policy.weights.groups) > 4
    return replace(policy, weights=Stored(policy.weights.groups, ()))


def wait(until: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not until():
        assert time.monotonic() - began < 120
        time.sleep(0.1)


def drawn_from_the_learner_alone(cluster: RayCluster, learner: RayLearner, world: World, folder: Path) -> None:
    """Two vLLM engines answer by the weights that two ranks hold, of which nothing else is kept."""
    engine = cluster.engine(VLLM(max_model_len=64), world.model)
    cluster.ready()
    for round in (1, 2):
        policy = learn(learner, world, round)
        drawn = engine.generate(PROMPTS, hollow(policy), SamplingParams(n=2, max_tokens=8), round=round, seed=0)
        answers = {
            one.id: (prompt, one) for prompt, group in zip(drawn.prompts, drawn.responses, strict=True) for one in group
        }
        asked = [
            {"response": id, "prompt_tokens": list(prompt.tokens), "tokens": one.tokens.tolist()}
            for id, (prompt, one) in answers.items()
        ]
        table = write(pa.Table.from_pylist(asked, schema=RESPONSES), folder / str(round))
        read = learner.logps([table], list(answers), policy)
        for (_, one), logps in zip(answers.values(), read["logps"].to_pylist(), strict=True):
            np.testing.assert_allclose(one.logps, logps, atol=1e-3)
    engine.close()
    assert cluster.supervisor.deaths == []
