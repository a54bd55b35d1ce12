"""No rank holds a whole model when learners shard it from birth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Place
from tests.support import jobs
from tests.support.classroom import SGD, make_lesson, make_model, make_tables, policy_of
from tests.support.ranks import Ranks

pytestmark = pytest.mark.deepspeed

SLACK = 24 << 20  # of threads and small objects


def test_a_model_that_is_larger_than_the_memory_of_a_rank_trains(tmp_path: Path) -> None:
    small, model = make_model(tmp_path / "small"), make_model(tmp_path / "model", width=512, layers=24)
    whole = (Path(model.path) / "model.safetensors").stat().st_size  # 216 MiB in float32
    tables = make_tables(tmp_path / "round")
    learner = Torch(training=SGD).open(small, Place())
    lesson = make_lesson(tmp_path, [tables], learner, policy_of(small))
    training = replace(SGD, micro_batch=1, gradient_checkpointing="full")
    room = whole + int(0.9 * whole)  # the checkpoint's file is mapped, which counts as memory that it could take
    arguments = (small, model, policy_of(model), lesson, room)
    with Ranks(4) as ranks:
        for loaded, most in ranks.run(jobs.train_in, FSDP(ranks=4, training=training), *arguments):
            assert loaded <= whole / 4 + whole / 24 + SLACK  # its share, one layer
            assert most < whole  # with its share of the gradients, and buffers that gather and reduce
        with pytest.raises((RuntimeError, MemoryError), match="allocate"):
            ranks.run(jobs.train_in, DeepSpeed(ranks=4, zero_stage=2, training=training), *arguments)


@pytest.mark.parametrize(
    "trained",
    [pytest.param("all weights", marks=pytest.mark.soak), "adapter", "reward model"],  # four ranks: above
)
def test_a_rank_of_two_loads_its_half(trained: str, tmp_path: Path) -> None:
    small, model = make_model(tmp_path / "small"), make_model(tmp_path / "model", width=512, layers=24)
    whole = (Path(model.path) / "model.safetensors").stat().st_size
    kinds = {"all weights": {}, "adapter": {"lora": LoRA(rank=4)}, "reward model": {"head": Head(1)}}
    spec = FSDP(ranks=2, training=SGD, **kinds[trained])
    with Ranks(2) as ranks:
        for loaded in ranks.run(jobs.load_in, spec, small, model):
            assert loaded <= whole / 2 + whole / 24 + SLACK  # its share, one layer


@pytest.mark.soak
def test_zero_3_loads_its_share(tmp_path: Path) -> None:
    small, model = make_model(tmp_path / "small"), make_model(tmp_path / "model", width=512, layers=24)
    whole = (Path(model.path) / "model.safetensors").stat().st_size
    tables = make_tables(tmp_path / "round")
    learner = Torch(training=SGD).open(small, Place())
    lesson = make_lesson(tmp_path, [tables], learner, policy_of(small))
    spec = DeepSpeed(ranks=4, zero_stage=3, training=replace(SGD, precision="bfloat16"))
    with Ranks(4) as ranks:
        for loaded, _ in ranks.run(jobs.train_in, spec, small, model, policy_of(model), lesson, None):
            assert loaded < whole
