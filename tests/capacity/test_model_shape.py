"""Sizes from config.json alone, against the models themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf_flow.capacity.model_shape import shape_of

pytestmark = pytest.mark.slow

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LlamaForCausalLM, LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False)),
        (Qwen2ForCausalLM, Qwen2Config(**SMALL, num_key_value_heads=4, tie_word_embeddings=True)),
        (GPT2LMHeadModel, GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64)),
    ],
    ids=["llama", "qwen2 tied", "gpt2"],
)
def test_weights_are_counted_as_the_model_has_them(kind: type, config: object, tmp_path: Path) -> None:
    model = kind(config)
    model.config.save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.largest == max(p.numel() for p in model.parameters())
    assert (shape.layers, shape.width, shape.heads, shape.vocabulary) == (2, 32, 4, 100)
    assert shape.gated == (kind is not GPT2LMHeadModel)


def test_a_classifier_has_a_head_instead_of_an_output_layer(tmp_path: Path) -> None:
    LlamaConfig(**SMALL, num_labels=1, tie_word_embeddings=False).save_pretrained(tmp_path)
    policy, judge = shape_of(str(tmp_path)), shape_of(str(tmp_path), head=True)
    assert policy.parameters - judge.parameters == 100 * 32 - 32


def test_no_weight_is_needed_and_none_is_allocated(tmp_path: Path) -> None:
    """70 thousand million weights would not fit here."""
    LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    ).save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert shape.parameters == 70_553_706_496
    assert (shape.keys, shape.queries, shape.stored) == (1024, 8192, 2)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        shape_of(str(tmp_path))
