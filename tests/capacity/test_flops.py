"""The FLOPs of an update, against those that torch counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.capacity.flops import Rate, of_update
from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.learner.batching import Row
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.learner.policy_model import ResponseLogps, share_prompts
from tests.support.configured import WORK, configured, training


@pytest.mark.slow
def test_matrix_products_are_those_of_a_packed_pass(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "vocab_size": 512}
    lm = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=3, tie_word_embeddings=False)).eval()
    lm.save_pretrained(tmp_path)
    model = ResponseLogps(lm, chunk=10_000)
    assert share_prompts(model)
    random = np.random.default_rng(0)
    prompts = [random.integers(3, 512, 12).astype(np.int32) for _ in range(4)]
    rows = [Row(prompt, random.integers(3, 512, 20).astype(np.int32)) for prompt in prompts for _ in range(2)]
    packed = pack_groups(rows)
    with FlopCounterMode(display=False) as counted:
        model(*map(torch.from_numpy, (packed.tokens, packed.at, packed.targets)), groups=packed.groups).sum().backward()
    products = sum(flops for name, flops in counted.get_flop_counts()["Global"].items() if "mm" in str(name))
    config, work = training(configured(), batch=4), replace(WORK, longest_prompt=12, longest_answer=20)
    shape = shape_of(str(tmp_path))
    scores = 4 * 12**2 / 2 + 8 * (19 * 12 + 19**2 / 2)  # an answer's last token is not fed
    attention = 3 * 4 * 3 * shape.queries * scores
    assert products == pytest.approx(of_update(config, shape, work) - attention, rel=1e-6)


def test_utilisation_is_the_share_of_the_peak() -> None:
    assert Rate(3e12, 1e13).utilisation == pytest.approx(0.3)
    assert Rate(3e12, None).utilisation is None
