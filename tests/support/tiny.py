"""A tiny random policy and a file of prompts: enough for whole runs in one process, in seconds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from rlhf_flow.types import Rollouts
from tests.support.tokenizer import tokenizer


def policy(folder: Path, *, rows: int | None = None, heads: int = 2) -> Path:
    """Write a Llama of two layers with its tokenizer; `rows`: of its embedding, by default one for each token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def prompts(path: Path, number: int = 24) -> Path:
    rows = [{"id": f"q{i}", "prompt": f"Tell me about {i} cats."} for i in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shorter(prompt: object, answer: str, meta: object) -> float:
    """A judge for whom less is more."""
    return -float(len(answer))


def overrides(model: Path, asked: Path, run_dir: Path, **keys: object) -> list[str]:
    """A run of one round in this process, judged by `shorter`."""
    values: dict[str, object] = {
        "cluster": "local",
        "engine": "huggingface",
        "learner": "torch",
        "scorer": "rule",
        "scorer.function": "tests.support.tiny.shorter",
        "model.path": model,
        "prompts.path": asked,
        "prompts.batch": 8,
        "prompts.held_out": 4,
        "answers.max_tokens": 8,
        "selector.truncated": "keep",
        "rounds": 1,
        "run_dir": run_dir,
    }
    values |= keys
    if values["scorer"] != "rule":
        del values["scorer.function"]
    return [f"{key}={value}" for key, value in values.items()]


def fond_of_vowels(messages: object, first: str, second: str, meta: object) -> float:
    """A judge of preferences, for whom an answer is the better the more of its letters are vowels."""
    return 1 / (1 + math.exp(20 * (_vowels(second) - _vowels(first))))


def vowels(rollouts: Rollouts) -> dict[str, float]:
    """The share of vowels in the last answer to each prompt: what `fond_of_vowels` likes."""
    return {"vowels": float(np.mean([_vowels(group[-1].text) for group in rollouts.responses]))}


def _vowels(answer: str) -> float:
    return sum(letter in "aeiou" for letter in answer.lower()) / max(len(answer), 1)
