"""vLLM's sampling params of a draw, and its outputs as samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.engine.requests import Sample
from rlhf_flow.types import SamplingParams

if TYPE_CHECKING:
    import vllm


def sampling(draw: SamplingParams, *, seed: int, ends: Sequence[int]) -> vllm.SamplingParams:
    """vLLM's sampling params. `seed`: of answer 0; vLLM adds k for answer k. `ends`: the only tokens that end one."""
    import vllm

    return vllm.SamplingParams(
        n=draw.n,
        seed=seed,
        temperature=draw.temperature,
        top_p=draw.top_p,
        top_k=draw.top_k,
        min_p=draw.min_p or 0.0,
        repetition_penalty=1.0 if draw.repetition_penalty is None else draw.repetition_penalty,
        max_tokens=draw.max_tokens,
        stop=draw.stop,
        stop_token_ids=list(ends),
        ignore_eos=True,  # `ends` has the end tokens, as in every engine
        logprobs=0,  # of the sampled token only
        flat_logprobs=True,
        detokenize=bool(draw.stop),  # decoding whole answers at once is faster
    )


def sample(output: vllm.CompletionOutput) -> Sample:
    return Sample(
        tokens=np.asarray(output.token_ids, np.int32),
        logps=flat(output.logprobs),
        truncated=output.finish_reason == "length",
    )


def flat(logprobs: object) -> np.ndarray:
    """float32 [T], one log-prob per position."""
    from vllm.logprobs import FlatLogprobs

    assert isinstance(logprobs, FlatLogprobs), f"flat_logprobs was asked for, got {type(logprobs)}"
    return np.asarray(logprobs.logprobs, np.float32)
