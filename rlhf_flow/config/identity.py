"""The identity of a run: the keys that must not change when it is resumed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rlhf_flow.config.compose import INNER, flat
from rlhf_flow.config.schema import RunConfig

# Keys of a scorer that do not change its verdicts: where it is, how it is reached, what it may cost.
WHERE = (
    *("path", "urls", "token_env", "retries", "concurrency", "endpoint", "budget", "folder", "poll", "deadline"),
    *("guidelines", "cache", "chat_template.date", "threads"),
)
SCORERS = ("scorer", "evaluate.scorer", "refresh.scorer")
TRAINING = (
    "tokens_per_batch",
    "micro_batch",
    "chunk",
    "gradient_checkpointing",
)  # memory and speed, up to rounding of sums
FREE = (  # keys, and parents of keys, that may change
    *("rounds", "cluster", "observe", "alarms", "run_dir", "checkpoint"),
    *("learner.compile", "learner.ranks", "learner.sequence_ranks", "learner.config"),
    "answers",  # the draws hold its values
    "given",  # each round records the data that it took pairs from
    *(f"{slot}.training.{key}" for slot in ("learner", "refresh") for key in TRAINING),
    *("engine.batch", "engine.kv_cache_mib", "engine.gpu_memory_utilization", "engine.max_num_seqs"),
    *("engine.tensor_parallel", "engine.threads", "anchors.by", "anchors.max_mismatch"),
    # The files may move: their contents are hashed, and so are the prompts as tokens.
    *(
        "model.path",
        "model.chat_template.date",
        "model.chat_template.file",
        "prompts.path",
        "prompts.held_out_path",
        "prompts.schema",
    ),
    *("prompts.columns.system", "prompts.empty", "prompts.malformed", "prompts.limits", "prompts.first"),
    "prompts.streaming",
    *(f"{slot}.{key}" for slot in SCORERS for key in WHERE),
)
ASKING = ("request", "max_tokens", "temperature", "logprobs", "thinking", "structured", "template")  # of an LLM judge
BOUND = ("checkpoint.prompts_per_commit",)  # must not change although its parent may: chunks are never cut anew


def identity(config: RunConfig) -> dict[str, object]:
    """Full keys and their values, which must match when a run is resumed."""
    keys = flat(config)
    drops = config.off_policy.exceeding == "drop"  # otherwise its bounds change no result
    free = () if drops else ("off_policy.max_staleness", "off_policy.max_mismatch")
    bound = (*BOUND, "rounds") if keys.get("learner.training.schedule.span") == "run" else BOUND
    return {key: value for key, value in sorted(keys.items()) if key in bound or not (key in free or _free(key))}


def asking(identity: Mapping[str, object]) -> Callable[[str], bool]:
    """Whether a key sets how an LLM judge is asked. Such keys may change until the run has a verdict."""
    judges = {key.removesuffix(".temperature") for key in identity if re.fullmatch(r"(.+\.)?scorer\.temperature", key)}
    keys = {f"{slot}.{name}" for slot in judges for name in (*ASKING, "sha256")}
    requests = tuple(f"{slot}.request." for slot in judges)
    return lambda key: key in keys or key.startswith(requests)


def _free(key: str) -> bool:
    key = re.sub(rf"\.({INNER}|members\.\d+|sources\.\d+)\.", ".", key)  # also in parts inside of parts
    return any(key == free or key.startswith(f"{free}.") for free in FREE) or "timeout" in key.rpartition(".")[2]
