"""Environment and threads of the process, set before vLLM opens; and vLLM's refusals as error messages."""

from __future__ import annotations

import os
import re

from rlhf_flow.specs import Place


def settle(place: Place) -> bool:
    """Prepare this process for vLLM. Returns whether it will use a GPU."""
    os.environ.update(
        OMP_NUM_THREADS=str(place.threads),  # more threads than free cores are 10 times slower
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the engine runs in this process and gets tensors without a copy
        VLLM_RAISE_ON_LOGIT_NANS="1",  # otherwise NaN weights generate token 0
        VLLM_NO_USAGE_STATS="1",
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # vLLM compiles one function for log-probs, which takes longer on the CPU than it saves.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # ranks need no NUMA node each
        torch.set_num_threads(place.threads)  # later calls have no effect in vLLM
    return on_gpu


def refusal(error: BaseException) -> str:
    """vLLM's refusal in one sentence, and the key to change."""
    inner = re.search(r"Value error, (.*?)(?: \[type=|$)", str(error), re.DOTALL)  # pydantic wraps the message
    problem = " ".join((inner.group(1) if inner else str(error) or type(error).__name__).split()).rstrip(".")
    low = problem.lower()
    if "kv cache" in low:
        fix = "leave engine.kv_cache_mib out, raise it, or lower engine.max_model_len"
    elif "max_model_len" in low:
        fix = "lower engine.max_model_len, or leave it out"
    elif "block size" in low or "block_size" in low:
        fix = "leave engine.block_size out"
    else:
        fix = "engine=huggingface, if transformers can load it"
    return f"{problem}. Fix: {fix}."
