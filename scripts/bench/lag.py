"""Compare the wall time of rounds with lag=1 and with lag=0, on the sandbox world and a real Ray cluster.

    python scripts/bench/lag.py                     # pads generation and training to the same duration
    python scripts/bench/lag.py --seconds 0 -- ...  # no padding; overrides come after --

The engine and the learner are the real ones, in separate processes. With --seconds, both also sleep, so that generation
and training take about the same time and do not compete for CPUs, as if each had its own GPU. The script prints the
wall time of a steady round without evaluation, divided by the sum of the stages with lag=0. It fails if the policy that
generated a round is not the one that the lag prescribes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_flow.config.compose import compose
from rlhf_flow.protocols import Engine, Learner, TrainingRound
from rlhf_flow.runner import prepare as build
from rlhf_flow.specs import EngineSpec, LearnerSpec, Model, Place
from rlhf_flow.types import Mixture, Policy, Prompt, Rollouts, SamplingParams

SMALL = (
    "experiment=sandbox",
    "rounds=2",
    "prompts.batch=16",
    "prompts.held_out_path=null",
    "prompts.held_out=8",
    "answers.n=2",
    "answers.max_tokens=24",
    "selector.truncated=keep",
    "checkpoint.prompts_per_commit=1000",
    "learner.training.batch=4",
    "observe.console=false",
)
LAST_ONLY = 10**6  # rounds between evaluations


class Around:
    """A wrapper that forwards attributes to `inner`."""

    inner: object

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or name == "inner":  # `inner` is not set during unpickling
            raise AttributeError(name)
        return getattr(self.inner, name)


@dataclass
class SlowEngine(Around):
    inner: Engine
    seconds: float

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        began = time.monotonic()
        rollouts = self.inner.generate(prompts, policy, draw, round=round, seed=seed)
        _until(began + self.seconds)
        return rollouts


@dataclass
class SlowLearner(Around):
    inner: Learner
    seconds: float

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        began, share = time.monotonic(), (last - first) / self.inner.steps(lesson)
        metrics = self.inner.update(lesson, first, last)
        _until(began + share * self.seconds)
        return metrics


def _until(end: float) -> None:
    time.sleep(max(0.0, end - time.monotonic()))


@dataclass(frozen=True)
class SlowEngineSpec(Around):
    inner: EngineSpec
    seconds: float  # at least, per call

    def open(self, model: Model, place: Place, *, mixes: bool = False) -> SlowEngine:
        return SlowEngine(self.inner.open(model, place, mixes=mixes), self.seconds)


@dataclass(frozen=True)
class SlowLearnerSpec(Around):
    inner: LearnerSpec
    seconds: float  # at least, per training round

    def open(self, model: Model, place: Place) -> SlowLearner:
        return SlowLearner(self.inner.open(model, place), self.seconds)


def run(folder: Path, overrides: list[str], *, lag: int, rounds: int, seconds: float) -> list[dict[str, float]]:
    """The metrics of the steady rounds: not the first, which cannot be generated ahead, and not the last."""
    config = compose(*overrides, f"lag={lag}", f"rounds={rounds}", f"evaluate.every={LAST_ONLY}", f"run_dir={folder}")
    if seconds:
        config = replace(
            config, engine=SlowEngineSpec(config.engine, seconds), learner=SlowLearnerSpec(config.learner, seconds)
        )
    build.prepare(config).run()
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("rounds/*/record.json"))]
    for record in records[1:]:
        drawer = records[max(0, record["round"] - 1 - lag)]["policy"]
        assert record["plan"]["samplers"]["policy"] == drawer, f"round {record['round']} was drawn by another policy"
    return [record["metrics"] for record in records[2:-1]]


def median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="minimum time of generation and of training; 0: no padding"
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("overrides", nargs="*", help="of both runs, after --")
    asked = parser.parse_args()
    overrides = [*SMALL, "learner.ranks=1", *asked.overrides]
    with tempfile.TemporaryDirectory() as name:
        none, one = (
            run(Path(name) / f"lag-{lag}", overrides, lag=lag, rounds=asked.rounds, seconds=asked.seconds)
            for lag in (0, 1)
        )
    drawing = [line["seconds/sample"] + line["seconds/score"] for line in none]
    learning = [sum(line[f"seconds/{stage}"] for stage in ("mismatch", "select", "anchor", "learn")) for line in none]
    walls = [[line["seconds/round"] - line.get("seconds/evaluate", 0.0) for line in lines] for lines in (none, one)]
    sums = [a + b for a, b in zip(drawing, learning, strict=True)]
    ratios = [wall / statistics.median(sums) for wall in walls[1]]
    print(f"lag=0: drawing and scoring {median(drawing)}, learning {median(learning)}, a round {median(walls[0])}")
    print(f"lag=1: a round {median(walls[1])}")
    print(f"wall / sum: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {len(ratios)} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
