"""Rounds of `rlhf-flow run`, timed by the run's own records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from peer.workload import Workload

STACKS = {
    "rlhf_flow local": ("stack=local",),
    "rlhf_flow vLLM": ("cluster=ray", "engine=vllm", "learner=deepspeed", "learner.ranks=1"),
}
FIRST = 2  # the first timed round: the one before it compiles and allocates
LIMIT = 3600.0  # seconds of a run


def rounds(
    stack: str,
    workload: Workload,
    model: Path,
    prompts: Path,
    folder: Path,
    *,
    dtype: str,
    timed: int,
    lr: float,
    checkpoints: bool,
) -> list[dict[str, float]]:
    """The seconds of each timed round: `round`, and of each stage. `checkpoints`: one a round; the peer writes none.

    One more round follows, which is not timed, because it also evaluates the policy.
    """
    last = FIRST + timed
    run = folder / "run"
    chat = workload.name == "W6"
    command = [
        *(sys.executable, "-m", "rlhf_flow", "run"),
        *STACKS[stack],
        f"model.path={model}",
        f"model.dtype={dtype}",
        f"learner.training.precision={dtype}",
        f"learner.training.optimizer.lr={lr}",
        f"learner.training.batch={workload.prompts}",
        f"prompts.path={prompts}",
        f"prompts.batch={workload.prompts}",
        f"prompts.held_out={workload.prompts}",
        *(() if chat else ("prompts.format=plain",)),
        "scorer=rule",
        "scorer.function=peer.workload.worth",
        f"answers.n={workload.answers}",
        f"answers.max_tokens={workload.max_tokens}",
        "selector.truncated=keep",
        f"evaluate.every={last + 1}",
        f"checkpoint.every={1 if checkpoints else last + 1}",
        f"rounds={last}",
        f"run_dir={run}",
        "observe.console=false",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {key.removeprefix("seconds/"): value for key, value in record.items() if key.startswith("seconds/")}
        for record in records[FIRST:last]
    ]
