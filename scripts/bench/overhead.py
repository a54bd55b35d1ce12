"""The driver's share of a steady round: wall time of the round minus that of its stages. Reads the metrics of a run.

    python scripts/bench/overhead.py runs/sandbox

A steady round is any round after the first that ran without a restart. Target: at most 5 %.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/sandbox")
    shares = []
    for line in map(json.loads, (root / "metrics.jsonl").read_text().splitlines()):
        if line["round"] < 2 or "seconds/round" not in line:
            continue
        stages = {key: value for key, value in line.items() if key.startswith("seconds/") and key != "seconds/round"}
        own = line["seconds/round"] - sum(stages.values())
        shares.append(own / line["seconds/round"])
        told = "  ".join(f"{key.removeprefix('seconds/')} {value:.2f}" for key, value in stages.items())
        print(f"round {line['round']}: {line['seconds/round']:.2f} s = {told}  driver {own:.2f} ({shares[-1]:.1%})")
    if not shares:
        sys.exit(f"{root} has no steady round: it needs at least two rounds without a restart")
    print(f"driver's own share: median {statistics.median(shares):.1%}, {min(shares):.1%} to {max(shares):.1%}")


if __name__ == "__main__":
    main()
