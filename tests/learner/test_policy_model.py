"""Our log-probs are those of the model's own logits, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from rlhf_flow.learner.batching import Packed, Row, pack
from rlhf_flow.learner.logits import token_logps
from rlhf_flow.learner.policy_model import ResponseLogps, load, ready, verify

pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
CONFIGS = {
    "untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "soft cap": Gemma2Config(**SIZES, final_logit_softcapping=2.0, query_pre_attn_scalar=8),
    "scale": CohereConfig(**SIZES, logit_scale=0.25),
    "divisor": GraniteConfig(**SIZES, logits_scaling=4.0),
    "learned positions": GPT2Config(
        vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5
    ),
}


def make(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def rows(*, seed: int = 0, shape: tuple[tuple[int, int], ...] = ((3, 4), (1, 7), (5, 1), (2, 0))) -> list[Row]:
    random = np.random.default_rng(seed)
    return [Row(*(random.integers(1, 64, n).astype(np.int32) for n in lengths)) for lengths in shape]


def ours(model: ResponseLogps, packed: Packed) -> Tensor:
    return model(*(torch.from_numpy(array) for array in (packed.tokens, packed.at, packed.targets)))


def theirs(lm: PreTrainedModel, row: Row) -> Tensor:
    """One row alone, from the whole tensor of logits, in float64."""
    tokens = torch.from_numpy(np.concatenate([row.prompt, row.tokens]).astype(np.int64))[None]
    logps = lm(input_ids=tokens).logits[0].double().log_softmax(-1)
    return logps[len(row.prompt) - 1 : -1].gather(-1, tokens[0, len(row.prompt) :, None])[:, 0]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_they_are_the_models_own(name: str, chunk: int) -> None:
    lm = make(CONFIGS[name])
    model = ResponseLogps(lm, chunk=chunk)
    verify(model)
    expected = torch.cat([theirs(lm, row) for row in rows()])
    found = ours(model, pack(rows()))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_cap_of_attention_scores_is_kept(tmp_path: Path) -> None:
    lm = make(Gemma2Config(**SIZES, attn_logit_softcapping=0.5, query_pre_attn_scalar=8))
    lm.save_pretrained(tmp_path)
    expected = torch.cat([theirs(lm, row) for row in rows()]).tolist()
    loaded = ready(load(str(tmp_path), revision=None, trust_remote_code=False))
    assert ours(ResponseLogps(loaded, chunk=1000), pack(rows())).tolist() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 5), st.integers(1, 20))
def test_they_do_not_depend_on_neighbours_order_or_padding(order: list[int], more: int, chunk: int) -> None:
    model = ResponseLogps(LLAMA, chunk=chunk)
    alone = [ours(model, pack([row])).tolist() for row in rows()[:3]]
    longer = rows(seed=1, shape=((10 + more, 3),))
    together = ours(model, pack([*(rows()[i] for i in order), *longer]))
    start, found = 0, dict[int, list[float]]()
    for i in order:
        found[i] = together[start : start + len(rows()[i].tokens)].tolist()
        start += len(rows()[i].tokens)
    for i in range(3):
        assert found[i] == pytest.approx(alone[i], abs=1e-5)


@pytest.mark.parametrize("name", ["untied", "tied"])
def test_gradients_through_chunks_are_those_through_whole_logits(name: str) -> None:
    lm = make(CONFIGS[name])
    torch.cat([theirs(lm, row) for row in rows()]).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in lm.named_parameters()}
    lm.zero_grad()
    ours(ResponseLogps(lm, chunk=3), pack(rows())).sum().backward()
    for name, parameter in lm.named_parameters():
        largest = expected[name].abs().max().item()  # 38 for the first layer's queries: float32 errs by that much more
        assert torch.allclose(parameter.grad, expected[name], rtol=0, atol=1e-4 * largest), name


@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_second_backward_pass_finds_the_same_gradients(chunk: int) -> None:
    lm = make(CONFIGS["soft cap"])
    total = ours(ResponseLogps(lm, chunk=chunk), pack(rows())).sum()
    found = []
    for _ in range(2):
        lm.zero_grad()
        total.backward(retain_graph=True)
        found.append(lm.get_output_embeddings().weight.grad.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunk", [3, 1000])
def test_gradients_in_float64_are_those_of_differences(name: str, chunk: int) -> None:
    lm = make(CONFIGS[name]).double()
    layer, read = ResponseLogps(lm, chunk=chunk).output, token_logps
    hidden, targets = torch.randn(7, 16, dtype=torch.float64, requires_grad=True), torch.arange(7)
    assert torch.autograd.gradcheck(lambda given: layer(given, targets, read), hidden)
    weight = layer.weight.detach().clone().requires_grad_()

    def of_weight(given: Tensor) -> Tensor:
        del layer.weight
        layer.weight = given
        return layer(hidden.detach(), targets, read)

    assert torch.autograd.gradcheck(of_weight, weight)


def test_logits_of_all_tokens_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    linear = torch.nn.functional.linear

    def watch(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if len(weight) == 64:  # the vocabulary
            seen.append(hidden.shape)
        return linear(hidden, weight, bias)

    monkeypatch.setattr("rlhf_flow.learner.output_layer.functional.linear", watch)
    ours(ResponseLogps(make(CONFIGS["untied"]), chunk=5), pack(rows())).sum().backward()
    assert len(seen) == 6  # 12 tokens in 3 chunks, forward and once more backward
    assert all(tokens <= 5 for tokens, _ in seen)


def test_responses_without_tokens_are_still_part_of_the_graph() -> None:
    model = ResponseLogps(make(CONFIGS["untied"]), chunk=5)
    logps = ours(model, pack(rows(shape=((3, 0),))))
    assert logps.shape == (0,)
    logps.sum().backward()


def test_dropout_is_off_with_and_without_checkpointed_layers(tmp_path: Path) -> None:
    make(LlamaConfig(**SIZES, attention_dropout=0.5)).save_pretrained(tmp_path / "llama")
    make(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64)).save_pretrained(tmp_path / "gpt2")
    for name in ("llama", "gpt2"):
        found = []
        for recompute in ("off", "selective", "full"):
            lm = load(str(tmp_path / name), revision=None, trust_remote_code=False)
            ready(lm, recompute)
            model = ResponseLogps(lm, chunk=5)
            found += [ours(model, pack(rows())).tolist() for _ in range(2)]
        assert all(logps == pytest.approx(found[0], abs=1e-6) for logps in found)


def test_a_model_whose_head_does_more_is_refused() -> None:
    lm = make(CONFIGS["untied"])
    lm.lm_head.register_forward_hook(lambda module, inputs, output: output * 3)
    with pytest.raises(ValueError, match="differ from the model's own"):
        verify(ResponseLogps(lm, chunk=5))


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.path=.*is not the checkpoint of a causal LM"):
        load(str(tmp_path), revision=None, trust_remote_code=False)


LLAMA = make(CONFIGS["untied"])
