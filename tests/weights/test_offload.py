"""Tensors that leave and come back: their storages are empty meanwhile, and then every bit is where it was."""

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
from rlhf_flow.weights.offload import HostOffload, Offloadable, tensors
from tests.support.classroom import ADAMW, make_lesson, make_model, make_tables, policy_of

CPU = torch.device("cpu")


def held(*holders: object) -> int:
    """Bytes in the storages of all tensors."""
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors(*holders)}
    return sum(storage.nbytes() for storage in storages.values())


def test_tensors_that_shared_their_storage_still_do() -> None:
    flat = torch.arange(12.0)
    views, layer = [flat[:5], flat[5:].view(7, 1)], nn.Linear(2, 2)
    layer.weight.data = flat[2:6].view(2, 2)
    before = [each.clone() for each in (flat, *views, layer.weight)]
    aside = HostOffload()
    aside.leave(CPU, {"flat": flat, "views": views}, layer)
    assert aside.bytes == flat.nbytes + layer.bias.nbytes
    assert held(flat, layer) == 0
    aside.come_back()
    assert all(map(torch.equal, (flat, *views, layer.weight), before))
    flat[2] = 100
    assert views[0][2] == layer.weight[0, 0] == 100


def test_what_is_on_another_device_stays() -> None:
    aside = HostOffload()
    aside.leave(torch.device("meta"), {"of the host": torch.arange(4)})
    assert aside.bytes == 0


def test_gradients_and_moments_leave_with_their_parameters() -> None:
    layer = nn.Linear(3, 3, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    aside = HostOffload()
    aside.leave(CPU, layer, optimizer)
    assert aside.bytes == 4 * layer.weight.nbytes + 4  # and the count of steps
    assert held(layer, optimizer) == 0


def test_leaving_twice_is_leaving_once_and_who_is_there_comes_back_unchanged() -> None:
    tensor, aside = torch.arange(3), HostOffload()
    aside.come_back()
    aside.leave(CPU, [tensor])
    aside.leave(CPU, [tensor])
    aside.come_back()
    aside.come_back()
    assert tensor.tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    # Of bfloat16 on disk, and so in memory of its own in float32: a file that is mapped has nothing to move.
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


def test_a_learner_that_is_aside_holds_nothing(model: Model, tmp_path: Path) -> None:
    learner = Torch(training=ADAMW).open(model, Place())
    start = policy_of(model)
    learner.start(start)
    learner.update(make_lesson(tmp_path, [make_tables(tmp_path / "round")], learner, start), 0, 1)
    before = held(*learner.backend.holders())
    assert before > 3 * 4 * sum(parameter.numel() for parameter in learner.backend.lm.parameters())
    learner.step_aside()
    assert held(*learner.backend.holders()) == 0
    learner.come_back()
    assert held(*learner.backend.holders()) == before


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
