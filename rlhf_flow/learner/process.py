"""What every rank does before it learns: settle how torch computes in this process, and load the model."""

from __future__ import annotations

import os

import torch
from transformers.utils.logging import disable_progress_bar

from rlhf_flow.learner.model import ResponseLogps, load, verify
from rlhf_flow.learner.training import Training
from rlhf_flow.specs import Model, Place


def be_deterministic(place: Place, *, threads: int | None) -> None:
    """The same weights from the same lesson: a fixed number of threads, and deterministic kernels on a GPU."""
    torch.set_num_threads(place.threads if threads is None else threads)
    if place.device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It would write NaN over every large buffer that DeepSpeed allocates.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch has no stub


def open_model(model: Model, training: Training) -> ResponseLogps:
    """The model in float32 on the CPU. Raises ValueError where it cannot be trained here."""
    disable_progress_bar()  # of loading: a run shows its own
    if model.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype must be float32 or bfloat16, got {model.dtype!r}")
    lm = load(
        model.path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    logps = ResponseLogps(lm, chunk=training.chunk)
    verify(logps)
    return logps
