"""What all engines share: which prompts they refuse, and the ids, seeds and texts of answers."""

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
    """A generated answer without its id."""

    tokens: np.ndarray  # int32 [T], including the end token
    logps: np.ndarray  # float32 [T], raw log-probs at T=1
    truncated: bool


def shorter(*limits: int | None) -> int | None:
    """The smallest limit; None is no limit."""
    return min((limit for limit in limits if limit is not None), default=None)


def check(prompts: Sequence[Prompt], draw: SamplingParams, max_model_len: int) -> None:
    """Raise ValueError if a prompt does not fit, which the engine would cut silently."""
    for prompt in prompts:
        if not prompt.tokens:
            raise ValueError(f"prompt {prompt.id!r} has no tokens; a model needs at least one, its BOS")
        if len(prompt.context) + draw.max_tokens > max_model_len:
            raise ValueError(
                f"prompt {prompt.id!r} has {len(prompt.context)} tokens and draw {draw.name!r} asks for "
                f"max_tokens={draw.max_tokens} more, but the engine holds max_model_len={max_model_len}. "
                "Fix: shorten or drop the prompt, lower max_tokens, or raise engine.max_model_len."
            )


def continued(prompt: Prompt, response: Response) -> Sequence[int]:
    """The tokens that a response continues."""
    return prompt.tokens if response.context is None else tuple(response.context.tolist())


def first_seed(seed: int, round: int, prompt: Prompt, draw: SamplingParams) -> int:
    """The seed of answer 0. Answer k has this seed plus k."""
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
    """The samples as responses, with ids, seeds and texts. A text ends before a stop text.

    The text of an answer that was begun is the whole one; its tokens are those that were sampled.
    """
    texts = iter(
        tokenizer.batch_decode(
            [
                [*(prompt.begun or ()), *sample.tokens.tolist()]
                for prompt, group in zip(prompts, samples, strict=True)
                for sample in group
            ],
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
                    context=None if prompt.begun is None else np.asarray(prompt.context, np.int32),
                )
                for k, sample in enumerate(group)
            )
        )
    return Rollouts(round, tuple(prompts), tuple(responses))
