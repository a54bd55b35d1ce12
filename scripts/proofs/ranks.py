"""Run one round from the same start on 1, 2 and 4 learner ranks, and measure how far the published weights differ.

    python scripts/proofs/ranks.py --ranks 1 2 4

Differences are Euclidean norms, relative to the norm of the weights with the first number of ranks: over all weights,
and for the tensor with the largest difference. Exit status 1 if a difference is above 1e-5, or if the pairs differ.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from drill import SMALL
from nodes import hashes

if TYPE_CHECKING:
    from torch import Tensor

BOUND = 1e-5
ONE = ("rounds=1", "learner.training.threads=1")


def weights(policy: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, in float64."""
    from safetensors.torch import load_file

    return {
        name: tensor.double() for shard in policy.glob("*.safetensors") for name, tensor in load_file(shard).items()
    }


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(sum(tensor.square().sum() for tensor in tensors.values())) ** 0.5


def relative(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[float, str, float]:
    """||one - other|| / ||other|| over all tensors; the name of the tensor with the largest, and its value."""
    assert one.keys() == other.keys()
    apart = {name: one[name] - other[name] for name in other}
    each = {name: norm({name: apart[name]}) / norm({name: other[name]}) for name in other}
    worst = max(each, key=lambda name: each[name])
    return norm(apart) / norm(other), worst, each[worst]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("overrides", nargs="*", help="of every run, after --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / f"ranks-{ranks}" for ranks in asked.ranks]
        for ranks, run in zip(asked.ranks, runs, strict=True):
            command = ["run", *SMALL, *ONE, *asked.overrides, f"learner.ranks={ranks}", f"run_dir={run}"]
            subprocess.run([sys.executable, "-m", "rlhf_flow", *command], check=True)
        return compared(asked.ranks, runs)


def compared(ranks: list[int], runs: list[Path]) -> int:
    """Print how far each run's weights are from the first one's, and the first one's from the start."""
    first, *others = [weights(run / "rounds/00001/policy") for run in runs]
    start = weights(Path(yaml.safe_load((runs[0] / "config.yaml").read_text())["model"]["path"]))
    print(f"the round itself moved the weights by {relative(start, first)[0]:.1e}")
    failed = False
    for number, run, other in zip(ranks[1:], runs[1:], others, strict=True):
        whole, worst, largest = relative(other, first)
        same = pairs(run) == pairs(runs[0])
        failed |= largest > BOUND or not same
        verdict = "from the same pairs" if same else "but NOT from the same pairs"
        print(f"{number} ranks against {ranks[0]}: {whole:.1e}, at most {largest:.1e} ({worst}), {verdict}")
    return int(failed)


def pairs(run: Path) -> dict[str, str]:
    return {path: sha256 for path, sha256 in hashes(run, 1).items() if "/pairs/" in path}


if __name__ == "__main__":
    sys.exit(main())
