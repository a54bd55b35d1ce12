"""A tiny random model of each architecture, written by `save_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 256  # positions

LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.2,
}
HEADS = {"head_dim": 32}
GEMMA = {**LLAMA, **HEADS, "query_pre_attn_scalar": 32, "sliding_window": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "initializer_range": 0.2}


@dataclass(frozen=True)
class Family:
    """An architecture: the class of its configuration, and what makes it tiny."""

    config: str  # of transformers
    keys: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaConfig", LLAMA),
    "llama-tied": Family("LlamaConfig", LLAMA, tied=True),
    "llama-padded": Family("LlamaConfig", {**LLAMA, "vocab_size": 384}),  # more rows than the tokenizer has tokens
    "mistral": Family("MistralConfig", {**LLAMA, "sliding_window": None}),
    "mixtral": Family("MixtralConfig", {**LLAMA, "num_local_experts": 4, "sliding_window": None}),
    "qwen2": Family("Qwen2Config", LLAMA, tied=True),
    "qwen3": Family("Qwen3Config", {**LLAMA, **HEADS}, tied=True),
    "qwen3-moe": Family("Qwen3MoeConfig", {**LLAMA, **HEADS, **EXPERTS}),
    "gemma2": Family("Gemma2Config", {**GEMMA, "attn_logit_softcapping": 1.0}, tied=True),
    "gemma3": Family("Gemma3TextConfig", GEMMA, tied=True),
    "gemma3-vision": Family(  # only its text part is trained
        "Gemma3Config",
        {
            "text_config": GEMMA,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_use_head": False,
            },
            "mm_tokens_per_image": 4,
        },
        tied=True,
    ),
    "phi3": Family("Phi3Config", {**LLAMA, "pad_token_id": 0}),
    "gpt2": Family("GPT2Config", GPT, tied=True),
    "opt": Family(
        "OPTConfig",
        {
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": LENGTH,
            "init_std": 0.2,
        },
        tied=True,
    ),
    "gpt-neox": Family("GPTNeoXConfig", {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}),
    "falcon": Family(
        "FalconConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.2,
            "max_position_embeddings": LENGTH,
        },
        tied=True,
    ),
    "bloom": Family("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}, tied=True),
    "stablelm": Family("StableLmConfig", LLAMA),
    "olmo2": Family("Olmo2Config", LLAMA),
    "granite": Family("GraniteConfig", {**LLAMA, "logits_scaling": 2.0, "attention_multiplier": 0.25}, tied=True),
    "cohere": Family("CohereConfig", LLAMA, tied=True),
    "smollm3": Family("SmolLM3Config", LLAMA, tied=True),
    "gpt-bigcode": Family("GPTBigCodeConfig", GPT, tied=True),
    "mamba": Family(
        "MambaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.2}, tied=True
    ),
    "lfm2": Family("Lfm2Config", {**LLAMA, "layer_types": ["conv", "full_attention"], "block_ff_dim": 96}, tied=True),
    "qwen3-next": Family(
        "Qwen3NextConfig",
        {
            **LLAMA,
            **HEADS,
            **EXPERTS,
            "layer_types": ["linear_attention", "full_attention"],
            "shared_expert_intermediate_size": 48,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
}


def make(
    name: str, folder: Path, words: PreTrainedTokenizerBase, *, dtype: str = "float32", shard: str = "5GB"
) -> Path:
    """Write the model of a family and the tokenizer. The weights are the same each time."""
    family = FAMILIES[name]
    keys: dict[str, object] = {
        "vocab_size": len(words),
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": family.tied,
    }
    given = {key: keys | value if key == "text_config" else value for key, value in family.keys.items()}
    write(getattr(transformers, family.config)(**keys | given), folder, words, dtype=dtype, shard=shard)
    return folder


def write(
    config: transformers.PreTrainedConfig,
    folder: Path,
    words: PreTrainedTokenizerBase,
    *,
    dtype: str = "float32",
    shard: str = "5GB",
) -> None:
    torch.manual_seed(0)
    lm: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
    lm.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    words.save_pretrained(folder)
