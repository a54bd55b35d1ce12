"""Weights straight from real ranks to engines that are up; where they are kept is read where that cannot be."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.cluster.object_store import Stored
from rlhf_flow.cluster.patience import Patience
from rlhf_flow.cluster.ray import Ray, RayCluster, RayEngine, RayLearner
from rlhf_flow.cluster.transfer import Transfer
from rlhf_flow.engine.huggingface import HuggingFaceEngine
from rlhf_flow.engine.vllm import VLLM
from rlhf_flow.learner.backend import Backend, Parameter, Part
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.preference import PreferenceLearner
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Model, Place
from rlhf_flow.tables import Lesson
from rlhf_flow.types import Draw, Message, Policy, Prompt
from rlhf_flow.weights import Checkpoint, checkpoint_fingerprint
from tests.cluster.test_transfer import TellingSpec, World, told
from tests.learner.classroom import RESPONSES, SGD, make_lesson, make_model, make_tables, write

pytestmark = pytest.mark.heavy
RANK_DIES, ENGINE_DIES, BUSY = "rank dies", "engine dies", "busy"  # files that tell a process what to do
PROMPTS = tuple(Prompt(f"p{i}", (Message("user", f"w{i}"),), (3 + i, 9)) for i in range(8))


@dataclass
class Dying:
    """The gathering of a backend that dies in the middle, once a file tells it to."""

    backend: Backend
    armed: Path
    calls: int = 0

    def whole(self, parameter: Parameter, part: Part, **how: object) -> Tensor | None:
        self.calls += self.armed.exists()
        if self.calls == 8:
            self.armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return type(self.backend).whole(self.backend, parameter, part, **how)


class Occupied(PreferenceLearner):
    """A learner that is busy for as long as a file is there."""

    busy: Path

    def steps(self, lesson: Lesson) -> int:
        self.busy.with_suffix(".began").touch()
        wait(lambda: not self.busy.exists())
        return super().steps(lesson)


@dataclass(frozen=True)
class Ranks(DeepSpeed):
    folder: Path = Path()  # of the files that tell it what to do
    dies: int = -1
    ranks: int = 2
    zero_stage: int = 3

    def open(self, model: Model, place: Place) -> PreferenceLearner:
        # Buckets of some kilobytes, so that a small model has many.
        learner = super().open(model, replace(place, bucket=20_000))
        assert isinstance(learner, PreferenceLearner)
        if place.rank == self.dies:
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    path = Path(model.path)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(path, head_dim=32)).save_pretrained(path)  # vLLM's least on a CPU
    start, tables = Policy("policy", 0, checkpoint_fingerprint(path), Checkpoint(path)), make_tables(folder / "round")
    return World(model, start, make_lesson(folder, [tables], Torch(training=SGD).open(model, Place()), start), folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    transfer = Transfer(by="nccl", bucket_mib=1)
    opened = Ray(object_store_mib=100, patience=Patience(deaths=100), engines=2, piece=1, transfer=transfer).open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def engine(cluster: RayCluster, world: World) -> RayEngine:
    """Two of them, which die when ENGINE_DIES is there."""
    return cluster.engine(Fragile(armed=world.folder / ENGINE_DIES), world.model)


@contextmanager
def learning(cluster: RayCluster, world: World, folder: Path, *, dies: int = -1) -> Iterator[RayLearner]:
    learner = cluster.learner(Ranks(folder=folder, dies=dies, training=SGD), world.model)
    cluster.ready()
    cluster.supervisor.deaths.clear()
    yield learner
    learner.close()


def learn(learner: RayLearner, world: World, round: int) -> Policy:
    if round == 1:
        learner.start(world.start)
    learner.update(world.lesson, 0, 1)
    return learner.publish("policy", round)


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


def drawn_from_the_learner_alone(cluster: RayCluster, world: World, folder: Path) -> None:
    """Two vLLM engines answer by the weights that two ranks hold, of which nothing else is kept."""
    engine = cluster.engine(VLLM(max_model_len=64), world.model)
    with learning(cluster, world, folder) as learner:
        for round in (1, 2):
            policy = learn(learner, world, round)
            drawn = engine.generate(PROMPTS, hollow(policy), Draw(n=2, max_tokens=8), round=round, seed=0)
            answers = {
                one.id: (prompt, one)
                for prompt, group in zip(drawn.prompts, drawn.responses, strict=True)
                for one in group
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


def test_two_vllm_engines_draw_from_what_the_learner_holds_and_nothing_else_is_read(
    cluster: RayCluster, world: World, tmp_path: Path
) -> None:
    drawn_from_the_learner_alone(cluster, world, tmp_path)


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_while_it_sends_is_started_again_and_engines_load_what_is_kept(
    dies: int, cluster: RayCluster, engine: RayEngine, world: World, tmp_path: Path
) -> None:
    with learning(cluster, world, tmp_path, dies=dies) as learner:
        assert told(engine, world.start)
        policy = learn(learner, world, 1)
        (tmp_path / RANK_DIES).touch()
        assert told(engine, policy) == policy.sha256
        assert [death.who for death in cluster.supervisor.deaths] == [f"learner rank {dies} of 2"]
        later = learn(learner, world, 2)
        assert told(engine, hollow(later)) == later.sha256 != policy.sha256


def test_an_engine_that_dies_while_it_receives_costs_the_learner_nothing(
    cluster: RayCluster, engine: RayEngine, world: World, tmp_path: Path
) -> None:
    with learning(cluster, world, tmp_path) as learner:
        policy = learn(learner, world, 1)
        (world.folder / ENGINE_DIES).touch()
        assert told(engine, policy) == policy.sha256
        (death,) = cluster.supervisor.deaths
        assert death.who in ("engine 0", "engine 1")
        later = learn(learner, world, 2)
        assert told(engine, hollow(later)) == later.sha256


def test_of_a_learner_that_is_busy_or_has_learned_on_engines_load_what_is_kept(
    cluster: RayCluster, engine: RayEngine, world: World, tmp_path: Path
) -> None:
    with learning(cluster, world, tmp_path) as learner:
        policy = learn(learner, world, 1)
        (tmp_path / BUSY).touch()
        thread = threading.Thread(target=learner.steps, args=(world.lesson,))
        thread.start()
        wait((tmp_path / f"{BUSY}.began").exists)
        assert told(engine, policy) == policy.sha256
        assert thread.is_alive()
        (tmp_path / BUSY).unlink()
        thread.join()
        learner.update(world.lesson, 0, 1)
        assert told(engine, world.start)
        with pytest.raises(RuntimeError, match="does not hold policy"):
            told(engine, hollow(policy))


@pytest.mark.parametrize("sharing", [{"layout": "colocated"}, {"gpu_share": 0.5}])
def test_workers_that_share_a_gpu_are_refused(sharing: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cluster.transfer.by=nccl needs GPUs of its own .* try cluster.transfer.by="):
        Ray(transfer=Transfer(by="nccl"), **sharing)


# -- at the same places -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together() -> Iterator[RayCluster]:
    transfer = Transfer(by="cuda_ipc", bucket_mib=1)
    patience = Patience(deaths=100)
    opened = Ray(
        layout="colocated", object_store_mib=100, patience=patience, engines=2, piece=1, transfer=transfer
    ).open()
    yield opened
    opened.close()


def test_colocated_vllm_engines_draw_from_what_the_rank_beside_them_holds(
    together: RayCluster, world: World, tmp_path: Path
) -> None:
    drawn_from_the_learner_alone(together, world, tmp_path)


def test_colocated_whoever_dies_on_the_way_engines_load_what_is_kept(
    together: RayCluster, world: World, tmp_path: Path
) -> None:
    engine = together.engine(Fragile(armed=world.folder / ENGINE_DIES), world.model)
    with learning(together, world, tmp_path, dies=1) as learner:
        assert told(engine, world.start)
        first = learn(learner, world, 1)
        (tmp_path / RANK_DIES).touch()
        assert told(engine, first) == first.sha256
        assert [death.who for death in together.supervisor.deaths] == ["learner rank 1 of 2"]
        second = learn(learner, world, 2)
        (world.folder / ENGINE_DIES).touch()
        assert told(engine, second) == second.sha256
        assert together.supervisor.deaths[1].who in ("engine 0", "engine 1")
        third = learn(learner, world, 3)
        assert told(engine, hollow(third)) == third.sha256
    engine.close()


def test_colocated_a_learner_that_stepped_aside_gives_nothing(
    together: RayCluster, world: World, tmp_path: Path
) -> None:
    engine = together.engine(TellingSpec(), world.model)
    with learning(together, world, tmp_path) as learner:
        policy = learn(learner, world, 1)
        assert told(engine, world.start)
        with pytest.raises(RuntimeError, match="does not hold policy"):
            told(engine, hollow(policy))
        assert told(engine, policy) == policy.sha256
    engine.close()


def test_apart_there_is_no_memory_to_share() -> None:
    with pytest.raises(
        ValueError, match=r"cuda_ipc needs learner and engine on the same GPU: cluster.layout=colocated"
    ):
        Ray(transfer=Transfer(by="cuda_ipc"))
