"""What a JSON of learner.config moves from the GPU to the host, and back into the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_flow.capacity.learner_memory import host_memory, learner_memory
from rlhf_flow.capacity.process_memory import Memory
from rlhf_flow.capacity.zero_offload import zero
from rlhf_flow.config.schema import RunConfig
from tests.support.configured import LLAMA_8B, WORK, configured, training

CPU = {"device": "cpu", "pin_memory": False}
P = LLAMA_8B.parameters


def offloading(folder: Path, *, stage: int = 3, ranks: int = 1, **settings: object) -> RunConfig:
    """Bfloat16 in the forward pass and in what is published."""
    path = folder / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": settings}))
    config = training(configured(learner="deepspeed", cluster="ray"), precision="bfloat16")
    learner = replace(config.learner, zero_stage=stage, ranks=ranks, config=str(path))
    return replace(config, learner=learner, model=replace(config.model, dtype="bfloat16"))


def highest(memory: Memory, item: str) -> float:
    return max(phase.items.get(item, 0.0) for phase in memory.phases)


def test_offloaded_optimizer_state_leaves_the_gpu_and_counts_on_the_host(tmp_path: Path) -> None:
    here = offloading(tmp_path)
    gpu, host = learner_memory(here, LLAMA_8B, WORK, on_gpu=True), host_memory(here, LLAMA_8B, WORK)
    assert highest(gpu, "moments") == 8 * P
    assert highest(host, "moments") == 0
    there = offloading(tmp_path, offload_optimizer=CPU)
    moved_gpu, moved_host = learner_memory(there, LLAMA_8B, WORK, on_gpu=True), host_memory(there, LLAMA_8B, WORK)
    for item in ("master weights", "moments", "gradients", "optimizer's step"):
        assert highest(moved_gpu, item) == 0
    assert (highest(moved_host, "master weights"), highest(moved_host, "moments")) == (4 * P, 8 * P)
    assert highest(moved_host, "gradients") == 8 * P, "one set to add up in, one for the optimizer"
    assert highest(moved_gpu, "weights") == 2 * P
    assert highest(moved_host, "weights") == 0
    assert moved_gpu.bytes < gpu.bytes
    assert moved_host.bytes > host.bytes


def test_offloaded_parameters_leave_the_gpu_but_for_those_that_a_pass_gathers(tmp_path: Path) -> None:
    config = offloading(tmp_path, offload_optimizer=CPU, offload_param=CPU, stage3_max_live_parameters=10**8)
    gpu, host = learner_memory(config, LLAMA_8B, WORK, on_gpu=True), host_memory(config, LLAMA_8B, WORK)
    assert highest(gpu, "weights") == highest(gpu, "weights set aside") == 0
    assert highest(host, "weights") == highest(host, "weights set aside") == 2 * P
    assert highest(gpu, "gathered weights") == 2 * 10**8


def test_the_whole_model_is_on_the_gpu_once_before_it_is_cut(tmp_path: Path) -> None:
    config = offloading(tmp_path, ranks=4, offload_optimizer=CPU, offload_param=CPU)
    assert learner_memory(config, LLAMA_8B, WORK, on_gpu=True).bytes >= 2 * P


def test_parameters_stay_where_they_are_below_stage_three(tmp_path: Path) -> None:
    config = offloading(tmp_path, stage=2, offload_optimizer=CPU, offload_param=CPU)
    assert highest(learner_memory(config, LLAMA_8B, WORK, on_gpu=True), "weights") == 2 * P
    assert highest(host_memory(config, LLAMA_8B, WORK), "gradients") == 8 * P


@pytest.mark.parametrize("device", ["none", "auto"])
def test_a_json_that_offloads_nothing_changes_nothing(device: str, tmp_path: Path) -> None:
    plain = offloading(tmp_path)
    same = offloading(tmp_path, offload_optimizer={"device": device}, offload_param={"device": device})
    assert zero(plain, on_gpu=True) == zero(same, on_gpu=True)


def test_the_ranks_share_what_is_on_the_host(tmp_path: Path) -> None:
    one, four = (
        host_memory(offloading(tmp_path, ranks=ranks, offload_optimizer=CPU, offload_param=CPU), LLAMA_8B, WORK)
        for ranks in (1, 4)
    )
    assert four.processes == 4
    assert highest(four, "moments") == highest(one, "moments") / 4
