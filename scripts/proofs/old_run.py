"""Write the fixture of tests/runs/test_old_runs.py: runs of the current version, stopped in their third round.

Each release adds one archive, made before any name in a run folder changes:
`python scripts/proofs/old_run.py 0.1`. An archive holds the policy, the prompts, one folder for each run, and for each
run the sha256 of the policy that it ends with if it is not stopped, on the processor that made it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch

from rlhf_flow.sandbox.build import build
from rlhf_flow.sandbox.world import Size

FOLDER = Path(__file__).parents[2] / "tests/support/old_runs"
WORLD = Size(
    vocabulary=384,
    width=32,
    layers=2,
    positions=256,
    careful=2000,
    usual=4000,
    written=16,
    drawn=8,
    prompts=96,
    held_out=8,
)
ROUNDS = 4
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as the tests run
COMMON = [
    "experiment=sandbox",
    "stack=local",
    "model.path=policy",
    "prompts.path=prompts.jsonl",
    "prompts.held_out_path=held_out.jsonl",
    "prompts.batch=24",
    "answers.max_tokens=32",
    "selector.truncated=keep",
    "learner.training.epochs=1",
    "checkpoint.keep=1",
    "checkpoint.prompts_per_commit=8",
    f"rounds={ROUNDS}",
]
RUNS = {  # one with common settings, and one that sets every key that had another name before
    "online_dpo": ["scorer.path=judge"],
    "nash_md": [
        "algorithm=nash_md",
        "replay.size=1",
        "off_policy.max_staleness=3",
        "off_policy.measured=16",
        "resampling.min_pairs=20",
        "resampling.max_batches=2",
        "scorer=cached",
        "scorer@scorer.base=sandbox",
        "scorer.base.path=judge",
        "scorer.cache=judged.sqlite",
        "cluster=local",
    ],
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("version")
    version = asked.parse_args().version
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(made)
        world = build(Path(elsewhere), size=WORLD)
        shutil.copytree(world.policy, folder / "policy")
        shutil.copytree(world.reward_model, folder / "judge")
        shutil.copy(world.prompts, folder / "prompts.jsonl")
        shutil.copy(world.held_out, folder / "held_out.jsonl")
        ends = {}
        for name, own in RUNS.items():
            overrides = [*COMMON, *own, f"run_dir={name}"]
            subprocess.run([*command(), *overrides], cwd=folder, env=ONE_THREAD, check=True)
            ends[name] = {"overrides": overrides, "sha256": final(folder / name)}
            shutil.rmtree(folder / name)
            stop_in_the_third_round(folder, name, overrides)
        facts = {
            "version": version,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "runs": ends,
        }
        (folder / "made.json").write_text(json.dumps(facts, indent=1) + "\n")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tarfile.open(FOLDER / f"{version}.tar.xz", "w:xz") as archive:
            archive.add(folder, arcname=version)


def command() -> list[str]:
    return [sys.executable, "-m", "rlhf_flow", "run"]


def final(run: Path) -> str:
    """The sha256 of the policy that a finished run ends with."""
    return str(json.loads((run / "final.json").read_text())["sha256"])


def stop_in_the_third_round(folder: Path, name: str, overrides: list[str]) -> None:
    """Kill the run once its third round has committed scores."""
    process = subprocess.Popen([*command(), *overrides], cwd=folder, env=ONE_THREAD, start_new_session=True)
    limit = time.monotonic() + 300
    while not list((folder / name).glob("rounds/00003/scores/*.parquet")):
        if process.poll() is not None or time.monotonic() > limit:
            raise SystemExit(f"{name}: the run ended, or took too long, before it was stopped")
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
