"""Tasks of EleutherAI's lm-evaluation-harness, run by its own library: https://github.com/EleutherAI/lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_flow.evaluation.contestants import Contestant
from rlhf_flow.metrics.stats import quantile_of, with_interval
from rlhf_flow.system.optional_deps import require
from rlhf_flow.weights.source import Adapter, Checkpoint, File

PACKAGE = "lm_eval"


@dataclass(frozen=True)
class Tasks:
    """What is run, as the options of lm-evaluation-harness."""

    names: tuple[str, ...]
    folder: Path | None = None  # with task files of the user's
    shots: int | None = None  # examples before each question; None: those of the task
    limit: int | None = None  # rows of each task; None: all
    chat: bool = False  # whether questions are written in the tokenizer's chat template
    batch_size: str = "auto"


def check() -> None:
    """Raise MissingError if the library is not installed."""
    require(PACKAGE, part="--tasks", instead="a comparison by a scorer", extras=("lm-eval",))


def run(one: Contestant, tasks: Tasks) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, with `_low` and `_high` if the library gives a standard error; and `samples`.

    A metric is named as the library names it, without its filter if that is `none`. Raises ValueError if a task is not
    known.
    """
    import lm_eval
    import torch
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if tasks.folder is None else str(tasks.folder))
    unknown = [name for name in tasks.names if name not in manager.all_tasks]
    if unknown:
        raise ValueError(f"--tasks {','.join(unknown)}: lm-evaluation-harness has no such task. Fix: lm_eval ls tasks.")
    found: Any = lm_eval.simple_evaluate(
        model="hf",
        model_args=_model_args(one),
        tasks=list(tasks.names),
        num_fewshot=tasks.shots,
        limit=tasks.limit,
        batch_size=tasks.batch_size,
        device="cuda" if torch.cuda.is_available() else "cpu",  # the library's default needs a GPU
        apply_chat_template=tasks.chat,
        task_manager=manager,
        log_samples=False,
    )
    samples = found.get("n-samples", {})
    return {name: _metrics(values, samples.get(name, {})) for name, values in found["results"].items()}


def _model_args(one: Contestant) -> dict[str, Any]:
    """The checkpoint for the library's transformers model; an adapter is loaded over its base."""
    same = {"dtype": one.model.dtype, "trust_remote_code": one.model.trust_remote_code}
    match one.policy.weights if one.policy else None:
        case Checkpoint(path=path):
            return {"pretrained": str(path), **same}
        case Adapter(base=Checkpoint(path=path), tensors=File(path=tensors)):
            return {"pretrained": str(path), "peft": str(tensors.parent), **same}
        case _:
            raise ValueError(
                f"{one.name}: its weights are not on disk any more. Fix: a round that checkpoint.keep kept."
            )


def _metrics(values: Mapping[str, Any], samples: Mapping[str, int]) -> dict[str, float]:
    """`acc,none` and `acc_stderr,none` as `acc`, `acc_low` and `acc_high`."""
    measured: dict[str, float] = {}
    for key, value in values.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        shown = name if kind == "none" else f"{name}_{kind}"
        error = values.get(f"{name}_stderr,{kind}")
        if isinstance(error, int | float):
            half = quantile_of(0.95) * error
            measured |= with_interval(shown, value, value - half, value + half)
        else:
            measured[shown] = float(value)
    return measured | ({"samples": float(samples["effective"])} if "effective" in samples else {})
