"""Models built without weights get memory part by part, and are checked by a miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlhf_flow.learner.meta_init import allocate, is_empty, layers, parts, without_weights
from rlhf_flow.learner.policy_model import ResponseLogps, build, load, share_prompts, verify
from tests.learner.test_packing import CONFIGS, make

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CONFIGS)
def test_a_built_model_with_the_weights_of_a_loaded_one_is_that_model(name: str, tmp_path: Path) -> None:
    """Buffers that no checkpoint holds, such as the frequencies of positions, are computed as usual."""
    make(CONFIGS[name]).save_pretrained(tmp_path)
    loaded = load(str(tmp_path), revision=None, trust_remote_code=False)
    built, _ = build(str(tmp_path), revision=None, trust_remote_code=False)
    assert is_empty(built)
    assert all(parameter.is_meta for parameter in built.parameters())
    for part in parts(built, built):
        allocate(part, torch.device("cpu"), torch.float32)
    assert not is_empty(built)
    built.load_state_dict(loaded.state_dict())
    tokens = torch.arange(3, 20)[None]
    torch.testing.assert_close(built.eval()(tokens).logits, loaded.eval()(tokens).logits)


def test_only_one_layer_has_memory_at_a_time() -> None:
    with without_weights():
        lm = LlamaForCausalLM(CONFIGS["Llama"])
    first, *others = layers(lm)
    allocate(first, torch.device("cpu"), torch.bfloat16)
    assert {(p.is_meta, p.dtype) for p in first.parameters()} == {(False, torch.bfloat16)}
    assert all(p.is_meta for layer in others for p in layer.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_stay_tied(tied: bool) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    with without_weights():
        lm = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, tie_word_embeddings=tied))
    allocate(lm, torch.device("cpu"), torch.float32)
    assert (lm.lm_head.weight is lm.model.embed_tokens.weight) is tied


def test_a_miniature_has_one_layer_of_each_kind(tmp_path: Path) -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = Gemma3TextConfig(**sizes, num_key_value_heads=1, head_dim=8, num_hidden_layers=12, layer_types=2 * kinds)
    with without_weights():
        Gemma3ForCausalLM(config).config.save_pretrained(tmp_path)
    _, small = build(str(tmp_path), revision=None, trust_remote_code=False)
    assert small.config.layer_types == kinds
    assert len(layers(small)) == 6
    model = ResponseLogps(small, chunk=100)
    verify(model)
    assert share_prompts(model)


def test_a_miniature_shows_what_the_model_would(tmp_path: Path) -> None:
    """Its random weights are large enough for a wrong mask to change log-probs by more than the tolerance."""
    sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path)
    _, small = build(str(tmp_path), revision=None, trust_remote_code=False)
    for block in small.transformer.h:  # not causal any more
        block.attn.forward = lambda hidden, *arguments, **named: (hidden.mean(1, keepdim=True).expand_as(hidden), None)
    with pytest.raises(ValueError, match="not causal"):
        verify(ResponseLogps(small, chunk=100))


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.path=.*is not the checkpoint of a causal LM"):
        build(str(tmp_path), revision=None, trust_remote_code=False)
