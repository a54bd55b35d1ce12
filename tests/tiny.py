"""A tiny random policy and a file of prompts: enough for whole runs in one process, in seconds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from rlhf_flow.types import Rollouts
from tests.tokenizer import tokenizer


def policy(folder: Path, *, rows: int | None = None) -> Path:
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
        num_attention_heads=2,
        num_key_value_heads=2,
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
        "scorer.function": "tests.tiny.shorter",
        "model.path": model,
        "prompts.path": asked,
        "prompts.batch": 8,
        "prompts.held_out": 4,
        "sampler.draws.0.max_tokens": 8,
        "evaluate.draw.max_tokens": 8,
        "selector.truncated": "keep",
        "rounds": 1,
        "run_dir": run_dir,
    }
    values |= keys
    if values["scorer"] != "rule":
        del values["scorer.function"]
    return [f"{key}={value}" for key, value in values.items()]


def fond_of_a(messages: object, first: str, second: str, meta: object) -> float:
    """A judge of preferences who likes the letter a: P(first beats second)."""
    return 1 / (1 + math.exp(_letters(second) - _letters(first)))


def letters(rollouts: Rollouts) -> dict[str, float]:
    """What `fond_of_a` likes, in the mean of the last answers to each prompt."""
    return {"letters": float(np.mean([_letters(group[-1].text) for group in rollouts.responses]))}


def _letters(answer: str) -> float:
    return 24.0 * answer.lower().count("a") / max(len(answer), 1)
