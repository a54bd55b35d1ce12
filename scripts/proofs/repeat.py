"""Repeat the sandbox run over training seeds, on one stack or several, and print the final metrics of each.

    python scripts/proofs/repeat.py --seeds 0 1 2
    python scripts/proofs/repeat.py --seeds 0 1 2 --stacks ray local
    python scripts/proofs/repeat.py --seeds 0 -- objective.beta=0.05      # overrides of every run come after --

Win rate: on held-out prompts, by the gold scorer, against the start, with ties as 1/2 and a 95 % bootstrap interval.
`kept` is the share of well-formed answers divided by the start's, `distinct` the share of distinct answers divided by
the start's. A finished run is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

STACKS = {"ray": (), "local": ("cluster=local", "engine=huggingface", "learner=torch")}
AIMS = {"win_rate": 0.85, "kept": 0.9, "distinct": 0.5}
COLUMNS = ("win_rate", "low", "high", "kept", "distinct", "gold", "start", "proxy", "kl", "length")


def outcome(root: Path) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The figures of a finished run, and each aspect of the gold scorer before and after."""
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    start, end = lines[0], lines[-1]
    aspects = {
        key.removeprefix("eval/aspect/"): (start[key], end[key]) for key in end if key.startswith("eval/aspect/")
    }
    before, after = aspects["well_formed"]
    return {
        "win_rate": end["eval/win_rate"],
        "low": end["eval/win_rate_low"],
        "high": end["eval/win_rate_high"],
        "kept": after / before,
        "distinct": end["eval/distinct"] / start["eval/distinct"],
        "gold": end["eval/reward"],
        "start": start["eval/reward"],
        "proxy": end["eval/proxy"],
        "kl": end["eval/kl"],
        "length": end["eval/length"],
    }, aspects


def run(stack: str, seed: int, folder: Path, overrides: list[str]) -> Path:
    root = folder / f"{stack}-seed-{seed}"
    command = [sys.executable, "-m", "rlhf_flow", "run", "experiment=sandbox", f"run_dir={root}", f"seed={seed}"]
    subprocess.run([*command, *STACKS[stack], *overrides], check=True, stdout=subprocess.DEVNULL)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=["ray"])
    parser.add_argument("--folder", type=Path, default=Path("runs/repeat"))
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    print("stack  seed  " + "  ".join(f"{name:>8}" for name in COLUMNS) + "  aims", flush=True)
    rates: dict[str, list[float]] = {}
    for stack in asked.stacks:
        for seed in asked.seeds:
            figures, aspects = outcome(run(stack, seed, asked.folder, asked.overrides))
            missed = [f"{name} < {aim}" for name, aim in AIMS.items() if figures[name] < aim]
            row = "  ".join(f"{figures[name]:8.3f}" for name in COLUMNS)
            print(f"{stack:5}  {seed:4}  {row}  {', '.join(missed) or 'met'}")
            told = "  ".join(f"{name} {before:.3f} -> {after:.3f}" for name, (before, after) in aspects.items())
            print(f"             gold by aspect: {told}", flush=True)
            rates.setdefault(stack, []).append(figures["win_rate"])
    for stack, values in rates.items():
        print(f"{stack}: win rate median {statistics.median(values):.3f}, {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
