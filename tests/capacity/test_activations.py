"""The bytes that a pass keeps, against what torch's own hooks see it keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_flow.capacity.activations import KEPT, Tokens, activations, logits, of_layer
from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.learner.logits import token_logps
from rlhf_flow.learner.policy_model import ResponseLogps, ready
from tests.support.allocations import left, peak
from tests.support.configured import LLAMA_8B

pytestmark = pytest.mark.slow

ROWS, LENGTH = 3, 32


def llama(*, kv_heads: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "vocab_size": 97}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, num_key_value_heads=kv_heads, num_hidden_layers=layers, tie_word_embeddings=False)
    )


def saved(lm: LlamaForCausalLM, numeric: str) -> int:
    """Bytes that autograd keeps of a forward pass, weights and their casts left out."""
    lm = lm.to(torch.bfloat16) if numeric == "bfloat16" else lm
    weights = {p.untyped_storage().data_ptr() for p in lm.parameters()}
    shapes = {tuple(p.shape) for p in lm.parameters()} | {tuple(p.T.shape) for p in lm.parameters() if p.dim() == 2}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    casts = torch.autocast("cpu", dtype=torch.bfloat16, enabled=numeric == "autocast")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), casts:
        kept = lm.base_model(input_ids=ids, use_cache=False)  # held, or its graph would go and its memory come again
        assert kept.last_hidden_state.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("numeric", KEPT)
def test_a_layer_keeps_what_torch_keeps_of_it(numeric: str, kv_heads: int, tmp_path: Path) -> None:
    llama(kv_heads=kv_heads, layers=1).config.save_pretrained(tmp_path)
    two, three = (saved(llama(kv_heads=kv_heads, layers=layers), numeric) for layers in (2, 3))
    assert (three - two) / (ROWS * LENGTH) == of_layer(shape_of(str(tmp_path)), numeric)


@pytest.mark.parametrize("numeric", KEPT)
@pytest.mark.parametrize("recompute", ["off", "selective", "full"])
def test_a_checkpointed_layer_keeps_what_is_allocated_after_a_pass(
    numeric: str, recompute: str, tmp_path: Path
) -> None:
    def kept(layers: int) -> int:
        lm = ready(llama(kv_heads=2, layers=layers), recompute)
        lm = lm.to(torch.bfloat16) if numeric == "bfloat16" else lm
        casts = torch.autocast("cpu", dtype=torch.bfloat16, enabled=numeric == "autocast", cache_enabled=False)
        ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        held: list[object] = []

        def forward() -> None:
            with casts:
                held.append(lm.base_model(input_ids=ids, use_cache=False))

        return left(forward) - 2 * (lm_linear(lm) if numeric == "autocast" and recompute == "off" else 0)

    llama(kv_heads=2, layers=1).config.save_pretrained(tmp_path)
    found = (kept(3) - kept(2)) / (ROWS * LENGTH)
    assert found == pytest.approx(of_layer(shape_of(str(tmp_path)), numeric, recompute), rel=0.05)


def lm_linear(lm: LlamaForCausalLM) -> int:
    """The weights of the linear layers, which autocast copies."""
    return sum(p.numel() for name, p in lm.model.layers.named_parameters() if p.dim() == 2)


@pytest.mark.parametrize("numeric", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunk", [256, 512, 1024])
def test_the_output_layer_allocates_the_logits_of_a_chunk_once(numeric: str, chunk: int) -> None:
    config = LlamaConfig(hidden_size=2, num_attention_heads=1, num_hidden_layers=1, vocab_size=16384)
    lm = LlamaForCausalLM(config).to(getattr(torch, numeric))
    model, tokens = ResponseLogps(lm, chunk=chunk), 1024
    hidden = torch.randn(tokens, 2, dtype=lm.dtype, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.long)
    found = peak(lambda: model.output(hidden, targets, token_logps).sum().backward())
    expected = logits(replace(LLAMA_8B, vocabulary=16384), tokens, chunk, numeric)
    assert found == pytest.approx(expected, rel=0.05)


@given(
    st.sampled_from(sorted(KEPT)),
    st.integers(1, 10**5),
    st.integers(1, 10**5),
    st.booleans(),
)
def test_more_tokens_keep_more_and_checkpointing_never_more(numeric: str, few: int, more: int, gated: bool) -> None:
    shape = replace(LLAMA_8B, gated=gated)
    fewer, most = sorted((few, few + more))
    few_tokens, tokens = (Tokens(each, each, each, each) for each in (fewer, most))
    whole = activations(shape, tokens, numeric)
    assert activations(shape, few_tokens, numeric) < whole
    assert activations(shape, tokens, numeric, "full") < activations(shape, tokens, numeric, "selective") < whole


@given(st.integers(1, 10**5), st.integers(1, 10**4), st.integers(1, 10**4))
def test_a_larger_chunk_never_takes_less(tokens: int, chunk: int, more: int) -> None:
    assert logits(LLAMA_8B, tokens, chunk, "bfloat16") <= logits(LLAMA_8B, tokens, chunk + more, "bfloat16")
    whole, larger = (logits(LLAMA_8B, tokens, most, "float32") for most in (tokens, max(chunk, tokens)))
    assert larger == whole
