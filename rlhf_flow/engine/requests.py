"""What every engine does alike for a draw: what it refuses, what ends an answer, how answers are named and seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.types import Mixture, Policy, Prompt, Response, Rollouts, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One drawn answer, before it has a name."""

    tokens: np.ndarray  # int32 [T], including the end token
    logps: np.ndarray  # float32 [T], raw log-probs at T=1
    truncated: bool


def check(prompts: Sequence[Prompt], draw: SamplingParams, max_model_len: int) -> None:
    """Raise ValueError for prompts that do not fit: an engine would cut them without a word."""
    for prompt in prompts:
        if not prompt.tokens:
            raise ValueError(f"prompt {prompt.id!r} has no tokens; a model needs at least one (its BOS) to begin")
        if len(prompt.tokens) + draw.max_tokens > max_model_len:
            raise ValueError(
                f"prompt {prompt.id!r} has {len(prompt.tokens)} tokens and draw {draw.name!r} asks for "
                f"max_tokens={draw.max_tokens} more, but the engine holds max_model_len={max_model_len}. "
                f"Shorten or drop the prompt, lower max_tokens, or raise engine.max_model_len."
            )


def first_seed(seed: int, round: int, prompt: Prompt, draw: SamplingParams) -> int:
    """The seed of answer k = 0; answer k has this plus k."""
    return derive(seed, round, prompt.id, draw.name)


def answered(
    prompts: Sequence[Prompt],
    samples: Sequence[Sequence[Sample]],  # [B][N]
    policy: Policy | Mixture,
    draw: SamplingParams,
    tokenizer: PreTrainedTokenizerBase,
    *,
    round: int,
    seed: int,
) -> Rollouts:
    """The samples as responses: named, seeded, and with the text of their tokens, up to a text that stops."""
    texts = iter(
        tokenizer.batch_decode(
            [sample.tokens.tolist() for group in samples for sample in group],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,  # the text of exactly these tokens
        )
    )
    responses = []
    for prompt, group in zip(prompts, samples, strict=True):
        start = first_seed(seed, round, prompt, draw)
        responses.append(
            tuple(
                Response(
                    id=f"{round}/{draw.name}/{k}/{prompt.id}",
                    tokens=sample.tokens,
                    text=(text := next(texts))[: draw.ends(text)],
                    logps=sample.logps,
                    truncated=sample.truncated,
                    draw=draw,
                    seed=start + k,
                    policy=policy.sha256,
                    source="mixture" if isinstance(policy, Mixture) else "policy",
                )
                for k, sample in enumerate(group)
            )
        )
    return Rollouts(round, tuple(prompts), tuple(responses))
