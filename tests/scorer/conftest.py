"""Answers to judge, and a tiny random reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams
from tests.support.tokenizer import tokenizer

Checkpoint = Callable[..., str]


def rollouts(*answers: Sequence[str], gold: str | None = None) -> Rollouts:
    """One prompt for each sequence of answers."""
    prompts = tuple(
        Prompt(f"q{b}", (Message("user", f"question {b}?"),), tokens=(1, b), answer=gold, meta={"level": b})
        for b in range(len(answers))
    )
    responses = tuple(
        tuple(
            Response(
                id=f"1/policy/{k}/q{b}",
                tokens=np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32),
                text=text,
                logps=None,
                truncated=False,
                draw=SamplingParams(n=len(texts)),
                seed=k,
                policy="0" * 64,
            )
            for k, text in enumerate(texts)
        )
        for b, texts in enumerate(answers)
    )
    return Rollouts(round=1, prompts=prompts, responses=responses)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Writes a tiny random Llama with a head of scores, and returns its folder."""

    def write(
        *,
        pad: int | None = None,
        labels: int = 1,
        template: bool = True,
        head: bool = True,
        positions: int = 512,
        tied: bool = False,
    ) -> str:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

        folder: Path = tmp_path_factory.mktemp("reward")
        with_template = tokenizer() if template else tokenizer(template=None)
        config = LlamaConfig(
            vocab_size=len(with_template),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=positions,
            num_labels=labels,
            initializer_range=0.3,  # so that scores differ by more than rounding
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=pad,
            tie_word_embeddings=tied,
        )
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config) if head else LlamaForCausalLM(config)
        model.save_pretrained(folder)
        with_template.save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture(scope="session")
def reward_path(checkpoint: Checkpoint) -> str:
    return checkpoint()


@pytest.fixture(scope="session")
def language_path(checkpoint: Checkpoint) -> str:
    return checkpoint(head=False)
