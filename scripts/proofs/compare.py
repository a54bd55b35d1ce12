"""Every recipe on the embedded world, at the same number of judge queries: what does each make of them?

    python scripts/proofs/compare.py                     # the reward model trains, the gold judge says who wins
    python scripts/proofs/compare.py --world cyclic      # preferences with a cycle: the duality gap of the styles
    python scripts/proofs/compare.py --recipes xpo inpo --seeds 1 2 3 4 5

The learning rate of each recipe is that of --lrs which ends best with seed 0; the other seeds are reported. What else a
recipe is set to is in configs/algorithm and configs/constants. A query is an answer that is given a number, or two that
are compared; equal texts are asked about once, so fewer are paid than are allowed. Runs that are there already, in
--folder, are not run again. Exit status 1 where a run failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from rlhf_flow.cluster import ray_persistent as kept
from rlhf_flow.config.compose import CONFIGS, compose

RECIPES = sorted(path.stem for path in (CONFIGS / "algorithm").glob("*.yaml"))
TUNING_SEED = 0


@dataclass(frozen=True)
class World:
    """An experiment, and what a run of it is judged by."""

    experiment: str
    rounds: int
    queries: int  # of a whole run
    aim: str  # the metric
    sign: int  # 1: more of it is better; -1: less


WORLDS = {
    "sandbox": World("sandbox", rounds=4, queries=4096, aim="eval/win_rate", sign=1),
    "cyclic": World("cyclic", rounds=8, queries=2048, aim="eval/gap", sign=-1),
}


@dataclass(frozen=True)
class Run:
    world: World
    recipe: str
    lr: float
    seed: int
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / f"{self.recipe}-lr-{self.lr:g}-seed-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        choice = [f"experiment={self.world.experiment}", f"algorithm={self.recipe}"]
        config = compose(*choice)
        n = sum(draw.n for draw in config.sampler.drawn.values())
        each = n * (n - 1) // 2 if config.scorer.intransitive else n  # queries a prompt
        return [
            *choice,
            f"run_dir={self.root}",
            f"seed={self.seed}",
            f"rounds={self.world.rounds}",
            f"evaluate.every={self.world.rounds}",
            f"prompts.batch={self.world.queries // (self.world.rounds * each)}",
            f"learner.training.optimizer.lr={self.lr}",
            "learner.training.batch=16",
            "learner.training.epochs=1",
            "learner.ranks=1",
            "cluster=ray_persistent",
            "checkpoint.every=99",
            "observe.console=false",
        ]

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Of each round from 0, the start; none where the run has not ended."""
        path = self.root / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return lines if len(lines) == self.world.rounds + 1 else []

    @property
    def end(self) -> dict[str, float]:
        return self.metrics[-1]


def lane(tasks: Queue[Run | None], ended: Queue[tuple[Run, int]]) -> None:
    """A process: run after run, on a cluster of its own that stays up between them."""
    from rlhf_flow.cli.main import main as rlhf_flow

    while (run := tasks.get()) is not None:
        run.folder.mkdir(parents=True, exist_ok=True)
        with (
            Path(f"{run.root}.log").open("w") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            status = rlhf_flow(["run", *run.overrides])
        ended.put((run, status))
    kept.end()


class Lanes:
    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.tasks: Any = context.Queue()
        self.ended: Any = context.Queue()
        self.processes = [
            context.Process(target=lane, args=(self.tasks, self.ended), daemon=True) for _ in range(number)
        ]
        for process in self.processes:
            process.start()

    def all(self, runs: Iterable[Run]) -> bool:
        """Whether every run, of those that are not there yet, came to its end."""
        missing = [run for run in runs if not run.metrics]
        for run in missing:
            self.tasks.put(run)
        good = True
        for done in range(len(missing)):
            run, status = self._next()
            good &= status == 0
            told = f"{run.world.aim} {run.end[run.world.aim]:.3f}" if status == 0 else "failed"
            print(f"{done + 1}/{len(missing)} {run.root}: {told}", file=sys.stderr, flush=True)
        return good

    def _next(self) -> tuple[Run, int]:
        while True:
            with contextlib.suppress(Empty):
                ended: tuple[Run, int] = self.ended.get(timeout=5)
                return ended
            if gone := [process for process in self.processes if not process.is_alive()]:
                raise RuntimeError(f"a process of the comparison died, exit status {gone[0].exitcode}. Start it again.")

    def close(self) -> None:
        for _ in self.processes:
            self.tasks.put(None)
        for process in self.processes:
            process.join()


def chosen(runs: Sequence[Run]) -> dict[str, float]:
    """The learning rate of each recipe: that whose run ended best."""
    best: dict[str, Run] = {}
    for run in runs:
        if run.metrics and (run.recipe not in best or _better(run, best[run.recipe])):
            best[run.recipe] = run
    return {recipe: run.lr for recipe, run in best.items()}


def _better(one: Run, other: Run) -> bool:
    aim = one.world.aim
    return one.world.sign * (one.end[aim] - other.end[aim]) > 0


def table(world: World, runs: Sequence[Run], lrs: dict[str, float]) -> str:
    """A row for each recipe: the median over the seeds, and the least and the most of them."""
    recipes = {run.recipe: [other for other in runs if other.recipe == run.recipe and other.metrics] for run in runs}
    order = sorted(
        (recipe for recipe, ended in recipes.items() if ended),
        key=lambda recipe: -world.sign * statistics.median(run.end[world.aim] for run in recipes[recipe]),
    )
    columns = COLUMNS[world.experiment]
    lines = [
        "| recipe | learning rate | " + " | ".join(columns) + " | queries |",
        "|---|--:" + "|--:" * (len(columns) + 1) + "|",
    ]
    for recipe in order:
        ended = recipes[recipe]
        cells = [spread([run.end[key] for run in ended]) for key in columns.values()]
        if "eval/win_rate" in columns.values():
            low = min(run.end["eval/win_rate_low"] for run in ended)
            high = max(run.end["eval/win_rate_high"] for run in ended)
            cells[0] = f"{statistics.median(run.end['eval/win_rate'] for run in ended):.3f} ({low:.3f} to {high:.3f})"
        queries = [sum(line.get("judge/queries", 0) for line in run.metrics) for run in ended]
        lines.append(
            f"| `{recipe}` | {lrs[recipe]:g} | " + " | ".join(cells) + f" | {statistics.median(queries):.0f} |"
        )
    return "\n".join(lines)


COLUMNS = {
    "sandbox": {"win rate by gold": "eval/win_rate", "gold": "eval/reward", "KL": "eval/kl", "length": "eval/length"},
    "cyclic": {"duality gap": "eval/gap", "gap by tone": "eval/gap_by_tone", "KL": "eval/kl", "length": "eval/length"},
}


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="sandbox")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, metavar="NAME")
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-4, 3e-4], metavar="LR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"))
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time (2), about 3 GiB each")
    asked = parser.parse_args()
    world, folder = WORLDS[asked.world], asked.folder / asked.world
    lanes = Lanes(asked.jobs)  # after an error they end with this process
    tried = [Run(world, recipe, lr, TUNING_SEED, folder) for lr in asked.lrs for recipe in asked.recipes]
    good = lanes.all(tried)
    lrs = chosen(tried)
    order = sorted(lrs, key=lrs.__getitem__)  # a learner stays for all runs of one learning rate
    runs = [Run(world, recipe, lrs[recipe], seed, folder) for recipe in order for seed in asked.seeds]
    good &= lanes.all(runs)
    lanes.close()
    print(table(world, runs, lrs))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
