"""A checkpoint is read tensor by tensor as the model that loads it would have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rlhf_flow.weights.buckets import index_of
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint

LLAMA = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama(*, tied: bool, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied)).to(dtype)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["5GB", "1KB"])
def test_every_tensor_comes_under_each_of_its_names_in_order(
    tied: bool, dtype: torch.dtype, shards: str, tmp_path: Path
) -> None:
    lm = llama(tied=tied, dtype=dtype)
    lm.save_pretrained(tmp_path, max_shard_size=shards)
    weights = Checkpoint(tmp_path)
    streamed = list(weights.stream())
    assert [name for name, _ in streamed] == sorted(lm.state_dict())
    assert fingerprint(dict(streamed)) == fingerprint(lm.state_dict()) == fingerprint(weights.load())
    assert weights.index() == index_of(lm.state_dict())


@pytest.mark.parametrize("tied", [False, True])
def test_files_that_name_tensors_in_another_way_are_read_as_the_model_reads_them(tied: bool, tmp_path: Path) -> None:
    lm = llama(tied=tied)
    lm.model.save_pretrained(tmp_path)  # without the head, and without `model.` before each name
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    found = Checkpoint(tmp_path).load()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").state_dict()
    assert found.keys() == loaded.keys()
    assert fingerprint({name: found[name] for name in found if name != "lm_head.weight"}) == fingerprint(
        {name: loaded[name] for name in loaded if name != "lm_head.weight"}
    )
    assert not tied or torch.equal(found["lm_head.weight"], lm.lm_head.weight)


def test_weights_of_another_dtype_come_as_the_configuration_says(tmp_path: Path) -> None:
    lm = llama(tied=False)
    lm.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    found = Checkpoint(tmp_path).load()
    assert fingerprint(found) == fingerprint(lm.bfloat16().state_dict())
    assert Checkpoint(tmp_path).index() == index_of(found)
