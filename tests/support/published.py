"""Stand-ins for published checkpoints: their sizes with the tokenizer of tests and no weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tests.support.tokenizer import tokenizer

LLAMA_3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
MISTRAL = {**LLAMA_3, "model_type": "mistral", "vocab_size": 32000, "max_position_embeddings": 32768}
QWEN_3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
}
SIZES: dict[str, dict[str, Any]] = {
    "RLHFlow/LLaMA3-SFT": LLAMA_3,
    "RLHFlow/LLaMA3-SFT-v2": LLAMA_3,
    "RLHFlow/pair-preference-model-LLaMA3-8B": LLAMA_3,
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": LLAMA_3,
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_3,
    "HuggingFaceH4/mistral-7b-sft-beta": MISTRAL,
    "mistralai/Mistral-7B-Instruct-v0.2": MISTRAL,
    "Qwen/Qwen3-0.6B": {
        **QWEN_3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-1.7B": {
        **QWEN_3,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-4B": {
        **QWEN_3,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": {
        **QWEN_3,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM3-3B": {
        "model_type": "smollm3",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
    },
}
SIZES["Skywork/Skywork-Reward-V2-Qwen3-0.6B"] = SIZES["Qwen/Qwen3-0.6B"]
THINK = ("qwen3", "smollm3")  # model types whose chat template has an argument enable_thinking
SCORES = ("FsfairX", "Reward")  # in the names of classifiers


def checkpoint(name: str, root: Path) -> Path:
    """A folder with the config.json of a published model, the tokenizer of tests, and a file with one number."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

    folder = root / name
    if folder.exists():
        return folder
    sizes = dict(SIZES[name])
    scores = any(word in name for word in SCORES)
    family = {"llama": "Llama", "mistral": "Mistral", "qwen3": "Qwen3", "smollm3": "SmolLM3"}[sizes["model_type"]]
    made = words(asks_to_think=sizes["model_type"] in THINK)
    config = AutoConfig.for_model(
        sizes.pop("model_type"),
        **sizes,
        architectures=[f"{family}For{'SequenceClassification' if scores else 'CausalLM'}"],
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
        dtype="bfloat16",
        **({"num_labels": 1} if scores else {}),
    )
    config.save_pretrained(folder)
    made.save_pretrained(folder)
    save_file({"none": torch.zeros(1, dtype=torch.bfloat16)}, folder / "model.safetensors")
    return folder


@cache
def words(*, asks_to_think: bool) -> Any:
    """The tokenizer of tests, whose template may read the argument that those of hybrid models read."""
    made = tokenizer()
    if asks_to_think:
        made.chat_template = "{% if enable_thinking is defined %}{% endif %}" + str(made.chat_template)
    return made
