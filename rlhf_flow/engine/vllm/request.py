"""What vLLM is asked for a draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_flow.types import SamplingParams

if TYPE_CHECKING:
    import vllm


def sampling(draw: SamplingParams, *, seed: int, ends: Sequence[int]) -> vllm.SamplingParams:
    """`seed`: of answer 0; vLLM gives answer k this plus k. `ends`: the tokens that end an answer, and nothing else."""
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
        ignore_eos=True,  # the end tokens are ours alone, as in every engine
        logprobs=0,  # of the sampled token only
        flat_logprobs=True,
        detokenize=bool(draw.stop),  # decoding whole answers at once is cheaper than token by token
    )
