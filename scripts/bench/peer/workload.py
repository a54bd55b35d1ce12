"""The workloads: a checkpoint, prompts, and what one round does with them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase

WORDS = 4096  # of the vocabulary
PAD, BEGIN, END = "<pad>", "<s>", "</s>"
SEED = 0


@dataclass(frozen=True)
class Workload:
    """One round: every prompt gets answers, the better one of each prompt's is preferred, and the policy is updated."""

    name: str
    about: str
    prompts: int  # per round
    answers: int  # per prompt
    max_tokens: int  # of an answer
    mean: float | None = None  # tokens of an answer, geometrically distributed; None: no answer ends before max_tokens


W5 = Workload("W5", "a random Llama of 5.8 M parameters, answers of exactly 64 tokens", 32, 2, 64)
W5V = Workload("W5v", "the same, answers of uneven length: 25 tokens on average, at most 128", 32, 2, 128, mean=25)
W6 = Workload("W6", "a checkpoint and prompts of your own, at most 128 tokens", 16, 4, 128)
WORKLOADS = {one.name: one for one in (W5, W5V, W6)}


def worth(messages: Sequence[object], answer: str, meta: object = None) -> float:
    """The reward: the share of an answer's characters that are even digits. A pure function of the text."""
    return sum(letter in "02468" for letter in answer) / max(len(answer), 1)


def build(workload: Workload, folder: Path) -> tuple[Path, Path]:
    """Write the random policy and its prompts; return the two paths."""
    return _policy(folder / "policy", workload.mean), _prompts(folder / "prompts.jsonl", 8 * workload.prompts)


def read_prompts(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["prompt"]


def _policy(folder: Path, mean: float | None) -> Path:
    """A random Llama whose end token has the same probability at every position, 1 / mean.

    One channel of the residual stream is the same for every token and no layer changes it. It carries the logit of the
    end token.
    """
    import torch
    from transformers import LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(SEED)
    config = llama(words)
    lm = LlamaForCausalLM(config)
    with torch.no_grad():
        lm.model.embed_tokens.weight[:, 0] = 1.0
        lm.lm_head.weight[:, 0] = 0.0
        for layer in lm.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        constant = lm.model(torch.arange(3, 67)[None]).last_hidden_state[0, :, 0].mean().item()
        logit = -30.0 if mean is None else math.log((WORDS - 1) / (mean - 1))
        lm.lm_head.weight[config.eos_token_id] = 0.0
        lm.lm_head.weight[config.eos_token_id, 0] = logit / constant
    lm.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def llama(words: PreTrainedTokenizerBase, *, layers: int = 5) -> LlamaConfig:
    """A Llama of 5.8 M parameters if it has 5 layers; each has 0.73 M, embeddings and output layer 1.05 M each."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=WORDS,
        hidden_size=256,
        intermediate_size=700,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [PAD, BEGIN, END, *(f"w{number}" for number in range(3, WORDS))]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=PAD, bos_token=BEGIN, eos_token=END)


def _prompts(path: Path, number: int) -> Path:
    draw = np.random.default_rng(SEED)
    texts = [" ".join(f"w{word}" for word in draw.integers(3, WORDS, size=draw.integers(8, 41))) for _ in range(number)]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    return path
