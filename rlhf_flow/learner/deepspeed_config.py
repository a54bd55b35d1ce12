"""The DeepSpeed configuration: our settings, merged with the user's JSON."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf_flow.learner.training import Training

Json = dict[str, object]

OWNED = {  # dotted key of a DeepSpeed JSON -> our key for it
    "train_batch_size": "learner.training.batch",
    "train_micro_batch_size_per_gpu": "learner.training.micro_batch",
    "gradient_accumulation_steps": "learner.training.batch and micro_batch",
    "gradient_clipping": "learner.training.clip",
    "managed_gradient_accumulation": "learner.training.batch and micro_batch",
    "optimizer": "learner.training.optimizer",
    "scheduler": "learner.training.schedule",
    "bf16": "learner.training.precision",
    "bfloat16": "learner.training.precision",
    "fp16": "learner.training.precision",
    "amp": "learner.training.precision",
    "torch_autocast": "learner.training.precision",
    "data_types": "learner.training.precision",
    "zero_optimization.stage": "learner.zero_stage",
    # With it, DeepSpeed 0.19.8 places float32 weights elsewhere than its own map says.
    "zero_optimization.round_robin_gradients": "nowhere: weights could not be saved and loaded",
    "zero_allow_untested_optimizer": "nowhere: it is always true",
    "zero_force_ds_cpu_optimizer": "nowhere: it is always false",
    "sequence_parallel_size": "learner.sequence_ranks",
    "tensor_parallel": "nowhere: ranks are data parallel",
    "pipeline": "nowhere: ranks are data parallel",
}


def read_user_config(path: str) -> Json:
    """The user's JSON without its "auto" entries. Raises ValueError if it sets a key of OWNED."""
    try:
        settings = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"learner.config={path!r} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"learner.config={path!r} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"learner.config={path!r} must hold a JSON object, got a {type(settings).__name__}")
    settings = _without_auto(settings)
    for key, place in OWNED.items():
        if _value(settings, key) is not None:
            raise ValueError(
                f"learner.config={path!r} sets {key}, which is set by {place}. Fix: remove it, or set it to 'auto'."
            )
    for key in ("zero_optimization.offload_param.device", "zero_optimization.offload_optimizer.device"):
        device = _value(settings, key)
        if device not in (None, "none", "cpu"):
            raise ValueError(f"learner.config={path!r}: {key} must be none or cpu, got {device!r}")
    return settings


def check_precision(training: Training, zero_stage: int) -> None:
    """Raise ValueError if DeepSpeed would lose precision."""
    if zero_stage == 0 and training.precision == "bfloat16":
        raise ValueError(
            "learner.zero_stage must be >= 1 with learner.training.precision=bfloat16, got 0: DeepSpeed's stage 0 "
            "accumulates gradients in bfloat16. Fix: learner.zero_stage=1, or learner.training.precision=float32."
        )


def engine_config(training: Training, *, ranks: int, zero_stage: int, path: str | None, device: str) -> Json:
    """The `config` of `deepspeed.initialize`, for settings without null (`Training.on`)."""
    check_precision(training, zero_stage)
    micro_batch = training.micro_batch or 1
    accumulation = -(-training.batch // (ranks * micro_batch))
    zero: Json = {"stage": zero_stage}
    if device == "cpu":
        zero |= {"overlap_comm": False, "reduce_bucket_size": 1 << 24, "allgather_bucket_size": 1 << 24}
    ours: Json = {
        # DeepSpeed uses only their ratio: the learner marks the end of a global batch and scales the loss.
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * ranks,
        "gradient_clipping": 0.0 if zero_stage == 0 else training.clip or 0.0,
        "steps_per_print": None,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if training.precision == "bfloat16":
        ours |= {"bf16": {"enabled": True, "check_grad_overflow": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return _merged(ours, read_user_config(path) if path is not None else {})


def _without_auto(settings: Json) -> Json:
    """Files for the Hugging Face trainer have "auto" for values that the trainer sets."""
    kept: Json = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            value = _without_auto(value) or "auto"
        if value != "auto":
            kept[key] = value
    return kept


def _value(settings: object, key: str) -> object:
    """The value of a dotted key, or None."""
    for name in key.split("."):
        if not isinstance(settings, dict) or name not in settings:
            return None
        settings = settings[name]
    return settings


def _merged(ours: Json, theirs: Json) -> Json:
    merged = dict(ours)
    for key, value in theirs.items():
        own = merged.get(key)
        merged[key] = _merged(own, value) if isinstance(own, dict) and isinstance(value, dict) else value
    return merged
