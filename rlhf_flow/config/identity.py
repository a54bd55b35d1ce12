"""What makes two runs the same run: what may differ when one is resumed, and what may not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rlhf_flow.config.compose import INNER, flat
from rlhf_flow.config.schema import RunConfig

# Of a judge: where it is, how it is reached, and what it may cost; not what it says.
WHERE = (
    "path",
    "urls",
    "token_env",
    "retries",
    "concurrency",
    "endpoint",
    "budget",
    "folder",
    "poll",
    "deadline",
    "guidelines",
    "cache",
    "chat_template.date",
)
FREE = (  # keys, and parents of keys, that may differ when a run is resumed: where it runs, who watches, what is kept,
    "rounds",
    "answers",  # the draws hold what it says
    "cluster",
    "observe",
    "alarms",
    "run_dir",
    "checkpoint",
    "learner.ranks",  # and what sets the memory and the speed, not the result (but for the rounding of sums)
    "learner.training.micro_batch",
    "learner.training.chunk",
    "learner.training.gradient_checkpointing",
    "learner.training.threads",
    "refresh.training.micro_batch",
    "refresh.training.chunk",
    "refresh.training.gradient_checkpointing",
    "refresh.training.threads",
    "engine.batch",
    "engine.kv_cache_mib",
    "engine.gpu_memory_utilization",
    "engine.max_num_seqs",
    "engine.tensor_parallel",
    "model.chat_template.date",  # what it does to prompts is in their hash
    "model.path",  # and where things lie: what they are is hashed
    "prompts.path",
    "prompts.held_out_path",
    "prompts.schema",
    "prompts.columns.system",
    "prompts.empty",
    "prompts.malformed",
    "prompts.limits",
    "prompts.first",
    "prompts.streaming",
    *(f"{slot}.{key}" for slot in ("scorer", "evaluate.scorer", "refresh.scorer") for key in WHERE),
    "learner.config",
)
ASKING = (
    "request",
    "max_tokens",
    "temperature",
    "logprobs",
    "thinking",
    "structured",
    "template",
)  # of a judge's model
BOUND = ("checkpoint.prompts_per_commit",)  # but this may not: what was committed in pieces is never cut anew


def identity(config: RunConfig) -> dict[str, object]:
    """What makes two runs the same run: flat keys and their values. On resume they must match."""
    keys = flat(config)
    free = (
        ("off_policy.max_staleness", "off_policy.max_mismatch") if config.off_policy.exceeding == "stop" else ()
    )  # nothing is dropped
    bound = (*BOUND, *(["rounds"] if keys.get("learner.training.schedule.span") == "run" else []))
    return {key: value for key, value in sorted(keys.items()) if key in bound or not (key in free or _free(key))}


def asking(identity: Mapping[str, object]) -> Callable[[str], bool]:
    """Whether a key says how a judge behind an endpoint is asked: it may change as long as there is no verdict."""
    judges = {key.removesuffix(".temperature") for key in identity if re.fullmatch(r"(.+\.)?scorer\.temperature", key)}
    keys = {f"{slot}.{name}" for slot in judges for name in (*ASKING, "sha256")}
    requests = tuple(f"{slot}.request." for slot in judges)
    return lambda key: key in keys or key.startswith(requests)


def _free(key: str) -> bool:
    key = re.sub(rf"\.({INNER}|members\.\d+)\.", ".", key)  # what may move, may move inside another part
    return any(key == free or key.startswith(f"{free}.") for free in FREE) or "timeout" in key.rpartition(".")[2]
