"""Workers that offload to the host and come back give the same results, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rlhf_flow.engine.huggingface import HuggingFace, HuggingFaceEngine
from rlhf_flow.learner.torch import Torch
from rlhf_flow.protocols import Learner
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import Message, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.offload import HostOffload, Offloadable
from tests.support.classroom import ADAMW, make_lesson, make_model, make_tables, policy_of

pytestmark = pytest.mark.slow


class Placed(nn.Linear):
    """A layer that notes where it is moved to, for a machine without a GPU."""

    def to(self, device: object) -> Placed:
        self.places = [*vars(self).get("places", []), str(device)]
        return self


def test_modules_leave_their_device_once_and_come_back_once() -> None:
    layer, offload = Placed(2, 2), HostOffload()
    offload.come_back()
    offload.leave(torch.device("cuda:1"), layer)
    offload.leave(torch.device("cpu"), layer)
    offload.come_back()
    offload.come_back()
    assert layer.places == ["cpu", "cuda:1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    stored = make_model(tmp_path_factory.mktemp("model"), tied=True, dtype="bfloat16")
    return Model(path=stored.path)


def rest(worker: object) -> None:
    assert isinstance(worker, Offloadable)
    worker.step_aside()
    worker.step_aside()
    worker.come_back()
    worker.come_back()


def test_a_learner_that_steps_aside_between_all_calls_learns_the_same_bits(model: Model, tmp_path: Path) -> None:
    start, tables = policy_of(model), make_tables(tmp_path / "round", prompts=20)
    plain, interrupted = (Torch(training=ADAMW).open(model, Place()) for _ in range(2))
    lesson = make_lesson(tmp_path, [tables], plain, start)
    wanted = sorted(tables.responses.read(["response"])["response"].to_pylist())

    def learn(learner: Learner, folder: Path, *, rests: bool) -> tuple[object, ...]:
        calls = [
            lambda: learner.start(start),
            *(lambda step=step: learner.update(lesson, step, step + 1) for step in range(3)),
            lambda: learner.logps([tables.responses], wanted, start),
            lambda: learner.publish("policy", 1),
            lambda: learner.save_state(folder),
            lambda: learner.update(lesson, 3, 4),
            lambda: learner.load_state(folder),
            lambda: learner.update(lesson, 3, 4),
            lambda: learner.publish("policy", 2),
        ]
        results = []
        for call in calls:
            results.append(call())
            if rests:
                rest(learner)
        return tuple(results)

    assert learn(plain, tmp_path / "plain", rests=False) == learn(interrupted, tmp_path / "rested", rests=True)
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "rested" / file.name).read_bytes()


def test_an_engine_that_steps_aside_draws_the_same_answers(model: Model) -> None:
    engine = HuggingFace().open(model, Place())
    assert isinstance(engine, HuggingFaceEngine)
    prompts = [Prompt(id=f"p{i}", messages=(Message("user", "w5"),), tokens=(0, 5 + i)) for i in range(4)]

    def drawn() -> Rollouts:
        return engine.generate(prompts, policy_of(model), SamplingParams(n=2, max_tokens=8), round=1, seed=3)

    before = drawn()
    rest(engine)
    after = drawn()
    for ours, theirs in zip(before.responses, after.responses, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert np.array_equal(one.logps, other.logps)
