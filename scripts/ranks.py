"""One round from the same start on 1, 2 and 4 learner ranks: how far apart are the weights that they publish?

    python scripts/ranks.py --ranks 1 2 4

Differences are Euclidean norms, relative to those of the weights on the first number of ranks: of all weights together,
and of the tensor where it is largest. Exit status 1 where one is above 1e-5, or where the pairs were not the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from drill import SMALL
from nodes import hashes

if TYPE_CHECKING:
    from torch import Tensor

BOUND = 1e-5
ONE = ("rounds=1", "learner.training.threads=1")


def weights(run: Path, round: int) -> dict[str, Tensor]:
    """What a round published, in float64."""
    from safetensors.torch import load_file

    shards = (run / f"rounds/{round:05d}/policy").glob("*.safetensors")
    return {name: tensor.double() for shard in shards for name, tensor in load_file(shard).items()}


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(sum(tensor.square().sum() for tensor in tensors.values())) ** 0.5


def minus(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    assert one.keys() == other.keys()
    return {name: one[name] - other[name] for name in one}


def relative(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[float, str, float]:
    """||one - other|| / ||other||: of all tensors; the name of the one where it is largest, and how large."""
    apart = minus(one, other)
    each = {name: norm({name: apart[name]}) / norm({name: other[name]}) for name in other}
    worst = max(each, key=lambda name: each[name])
    return norm(apart) / norm(other), worst, each[worst]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("overrides", nargs="*", help="of every run; behind --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / f"ranks-{ranks}" for ranks in asked.ranks]
        for ranks, run in zip(asked.ranks, runs, strict=True):
            command = ["run", *SMALL, *ONE, *asked.overrides, f"learner.ranks={ranks}", f"run_dir={run}"]
            subprocess.run([sys.executable, "-m", "rlhf_flow", *command], check=True)
        return compared(asked.ranks, runs)


def compared(ranks: list[int], runs: list[Path]) -> int:
    first, status = weights(runs[0], 1), 0
    learned = norm(minus(first, weights(runs[0], 0)))
    print(f"the round moved the weights by {learned / norm(first):.1e} of their norm")
    for number, run in zip(ranks[1:], runs[1:], strict=True):
        whole, worst, largest = relative(weights(run, 1), first)
        same = pairs(run) == pairs(runs[0])
        print(f"{number} ranks against {ranks[0]}: {whole:.1e}; at most {largest:.1e}, in {worst}", flush=True)
        if not same:
            print("the runs did not learn from the same pairs")
        status |= not same or largest > BOUND
    return int(status)


def pairs(run: Path) -> dict[str, str]:
    return {path: sha256 for path, sha256 in hashes(run, 1).items() if "/pairs/" in path}


if __name__ == "__main__":
    sys.exit(main())
