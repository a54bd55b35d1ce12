"""Memory of engines."""

from __future__ import annotations

import pytest

from rlhf_flow.capacity.worker_memory import engine_memory
from tests.support.configured import LLAMA_8B, WORK, configured


@pytest.mark.parametrize(("on_gpu", "slots"), [(True, 1024), (False, 256)])
def test_vllm_generates_as_many_answers_at_a_time_as_it_chooses_itself(on_gpu: bool, slots: int) -> None:
    plans = [
        engine_memory(configured(engine="vllm", cluster="ray", **more), LLAMA_8B, WORK, on_gpu=on_gpu)
        for more in ({}, {"engine.max_num_seqs": slots}, {"engine.max_num_seqs": slots // 2})
    ]
    assert plans[0] == plans[1]
    assert plans[0].phases[0].items["forward pass"] > plans[2].phases[0].items["forward pass"]
