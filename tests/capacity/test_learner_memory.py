"""What a learner holds, against torch's own numbers; and how it moves with what is configured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlhf_flow.capacity.fit import changes
from rlhf_flow.capacity.learner_memory import held, learner_memory
from rlhf_flow.learner.optimizer import Optimizer
from tests.support.configured import LLAMA_8B, WORK, configured, training


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_moments_are_the_bytes_that_the_optimizer_keeps(name: str) -> None:
    layer = nn.Linear(30, 20)
    optimizer = Optimizer(name=name, lr=1e-3).build(layer)
    layer(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    kept = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.numel() > 1]
    shape = replace(LLAMA_8B, parameters=sum(p.numel() for p in layer.parameters()))
    config = training(configured(), optimizer=Optimizer(name=name))
    assert held(config, shape, on_gpu=False).moments == sum(one.numel() * one.element_size() for one in kept)


def test_a_rank_of_torch_holds_sixteen_bytes_a_weight_behind_its_backward_pass() -> None:
    one = held(configured(), LLAMA_8B, on_gpu=True)
    assert one.weights + one.moments + one.gradients == 16 * LLAMA_8B.parameters


@pytest.mark.parametrize(("stage", "bytes"), [(1, 2 + 4 + (4 + 8) / 8), (2, 2 + (4 + 8 + 4) / 8), (3, (2 + 16) / 8)])
def test_zero_shares_what_its_paper_says(stage: int, bytes: float) -> None:
    """Rajbhandari et al. 2020, figure 1, with gradients kept in float32."""
    config = training(
        configured(learner="deepspeed", cluster="ray", **{"learner.ranks": 8, "learner.zero_stage": stage}),
        precision="bfloat16",
    )
    one = held(config, LLAMA_8B, on_gpu=True)
    assert one.weights + one.masters + one.moments + one.gradients == bytes * LLAMA_8B.parameters


def test_adapters_leave_moments_and_gradients_for_themselves_alone() -> None:
    whole = held(configured(), LLAMA_8B, on_gpu=True)
    adapters = held(configured(**{"learner.lora.rank": 16}), LLAMA_8B, on_gpu=True)
    assert adapters.weights == whole.weights
    assert adapters.gradients == 4 * 16 * LLAMA_8B.ends < whole.gradients / 10


def deepspeed(stage: int, ranks: int, **keys: object) -> float:
    config = training(configured(learner="deepspeed", cluster="ray"), batch=1024, **keys)
    config = replace(config, learner=replace(config.learner, ranks=ranks, zero_stage=stage))
    return learner_memory(config, LLAMA_8B, WORK, on_gpu=True).bytes


@settings(max_examples=15, deadline=None)
@given(
    stage=st.integers(1, 3),
    ranks=st.integers(1, 8),
    micro_batch=st.integers(1, 16),
    chunk=st.integers(64, 4096),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
def test_the_peak_grows_with_the_batch_and_the_chunk_and_shrinks_with_the_ranks(
    stage: int, ranks: int, micro_batch: int, chunk: int, precision: str
) -> None:
    def peak(ranks: int, micro_batch: int, chunk: int) -> float:
        return deepspeed(stage, ranks, micro_batch=micro_batch, chunk=chunk, precision=precision)

    now = peak(ranks, micro_batch, chunk)
    assert peak(ranks, 2 * micro_batch, chunk) >= now
    assert peak(ranks, micro_batch, 2 * chunk) >= now
    assert peak(2 * ranks, micro_batch, chunk) <= now


def test_each_way_out_is_smaller_than_the_one_before() -> None:
    config = configured(learner="deepspeed", cluster="ray")
    peaks = [learner_memory(config, LLAMA_8B, WORK, on_gpu=True).bytes]
    for _, changed in changes(config, on_gpu=True):
        peaks.append(learner_memory(changed, LLAMA_8B, WORK, on_gpu=True).bytes)
    assert len(peaks) > 5
    assert peaks == sorted(peaks, reverse=True)
