"""Sampling and scoring of a round at the same time, beside each of them alone.

    python scripts/bench/overlap.py
    python scripts/bench/overlap.py --prompts 256 --rounds 5

Three runs of `rlhf-flow run` on Ray with vLLM and a reward model, a random Llama of 6 M parameters: engine and scorer
have a thread each, so they work at the same time; then one of them has both cores, so they take turns, and the other's
seconds are those of one thread alone. The figure is the wall time of the first over the longer of the two alone. Needs
an otherwise idle machine with two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from peer.workload import W5V, build
from scoring import reward_model

AFTER = ("mismatch", "select", "anchor", "learn", "publish")  # the stages of a round after sampling and scoring
LIMIT = 1200.0  # seconds of a run


def measure(*, prompts: int = 128, rounds: int = 3) -> list[dict[str, object]]:
    """Print the figure; return the row of a file of results."""
    with tempfile.TemporaryDirectory() as folder:
        model, file = build(W5V, Path(folder))
        judge = reward_model(Path(folder) / "judge")
        runs = {
            threads: _run(Path(folder) / f"{threads[0]}-{threads[1]}", model, file, judge, threads, prompts, rounds)
            for threads in ((1, 1), (1, 2), (2, 1))
        }
    together = [one["round"] - sum(one[stage] for stage in AFTER if stage in one) for one in runs[1, 1]]
    sample, score = ([one[name] for one in runs[threads]] for name, threads in (("sample", (1, 2)), ("score", (2, 1))))
    both, alone = statistics.median(together), (statistics.median(sample), statistics.median(score))
    print(
        f"overlap: {prompts} prompts x {W5V.answers} answers; sampling alone {alone[0]:.2f} s, scoring alone "
        f"{alone[1]:.2f} s, both at the same time {both:.2f} s ({min(together):.2f} to {max(together):.2f}): "
        f"{both / max(alone):.2f} of the longer, {both / sum(alone):.2f} of the sum"
    )
    return [
        {"workload": "overlap", "unit": "s", "side": side, "runs": found}
        for side, found in (("together", together), ("sampling", sample), ("scoring", score))
    ]


def _run(
    folder: Path, model: Path, file: Path, judge: Path, threads: tuple[int, int], prompts: int, rounds: int
) -> list[dict[str, float]]:
    """The seconds of each stage of each round after the first. `threads`: of engine and scorer."""
    asked = [
        *("cluster=ray", "engine=vllm", "learner=deepspeed", "learner.ranks=1"),
        f"engine.threads={threads[0]}",
        f"scorer.threads={threads[1]}",
        f"model.path={model}",
        f"prompts.path={file}",
        f"prompts.batch={prompts}",
        "prompts.held_out=16",
        "prompts.format=plain",
        "scorer=reward_model",
        f"scorer.path={judge}",
        f"answers.n={W5V.answers}",
        f"answers.max_tokens={W5V.max_tokens}",
        "selector.truncated=keep",
        "checkpoint.prompts_per_commit=8",
        f"checkpoint.every={rounds + 2}",
        f"evaluate.every={rounds + 2}",
        f"rounds={rounds + 2}",
        f"run_dir={folder}",
        "observe.console=false",
    ]
    command = [sys.executable, "-m", "rlhf_flow", "run", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {key.removeprefix("seconds/"): value for key, value in record.items() if key.startswith("seconds/")}
        for record in records[2 : 2 + rounds]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each run (default: %(default)s)")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
