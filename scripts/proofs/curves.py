"""Write the curves of the algorithm pages, docs/algorithms/curves.json, from the runs of `make curves`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

KEYS = ("eval/win_rate", "eval/win_rate_low", "eval/win_rate_high")


def curve(run: Path) -> dict[str, dict[int, float]]:
    """The win rate by round, with its interval. Not every round is evaluated: two rounds of EGPO are one step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        key.removeprefix("eval/"): {line["round"]: round(line[key], 4) for line in lines if key in line} for key in KEYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the runs: ALGORITHM-lr-RATE-seed-SEED/")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    found = {}
    for run in sorted(options.folder.glob("*-lr-*-seed-*")):
        algorithm, _, rest = run.name.partition("-lr-")
        rate, _, seed = rest.rpartition("-seed-")
        found[algorithm] = {"lr": float(rate), "seed": int(seed), **curve(run)}
    options.file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{options.file}: {len(found)} curves")


if __name__ == "__main__":
    main()
