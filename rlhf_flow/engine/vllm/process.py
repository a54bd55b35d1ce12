"""What vLLM reads of its process before it opens: environment and threads."""

from __future__ import annotations

import os
import re

from rlhf_flow.specs import Place


def settle(place: Place) -> bool:
    """Whether vLLM will work on a GPU here."""
    os.environ.update(
        OMP_NUM_THREADS=str(place.threads),  # more threads than free cores cost a factor of 10
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the engine lives here, so tensors reach it without a copy
        VLLM_RAISE_ON_LOGIT_NANS="1",  # otherwise NaN weights answer token 0 for ever
        VLLM_NO_USAGE_STATS="1",
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # Log-probs pass through one compiled function; compiling it on the CPU takes longer than it ever saves.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # ranks need no NUMA node each
        torch.set_num_threads(place.threads)  # vLLM makes later calls do nothing
    return on_gpu


def refusal(error: BaseException) -> str:
    """What vLLM refuses, in one sentence, and the key that changes it."""
    told = re.search(r"Value error, (.*?)(?: \[type=|$)", str(error), re.DOTALL)  # of pydantic, which surrounds it
    said = " ".join((told.group(1) if told else str(error) or type(error).__name__).split()).rstrip(".")
    low = said.lower()
    if "kv cache" in low:
        fix = "leave engine.kv_cache_mib out, raise it, or lower engine.max_model_len"
    elif "max_model_len" in low:
        fix = "lower engine.max_model_len, or leave it out"
    elif "block size" in low or "block_size" in low:
        fix = "leave engine.block_size out"
    else:
        fix = "engine=huggingface, if transformers can load it"
    return f"{said}. Fix: {fix}."
