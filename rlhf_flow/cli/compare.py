"""`rlhf-flow compare`: run several algorithms with the same number of judge queries, and tabulate how they end."""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import yaml

from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.config.compose import CONFIGS, compose
from rlhf_flow.config.overrides import expanded
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.system import machine
from rlhf_flow.system.parent import end_with_parent, shared_stdin

RECIPES = sorted(path.stem for path in (CONFIGS / "algorithm").glob("*.yaml"))
TUNING_SEED = 0
WIDENINGS = 3  # learning rates that a recipe may try beyond its grid
SMALL = [  # engine.batch: fewer steps of decoding
    *("stack=local", "engine.batch=256", "prompts.held_out=256"),
    *("learner.training.batch=16", "learner.training.epochs=1"),
]
LRS = ["--lrs", "1e-4", "3e-4", "1e-3"]
WORLDS = {  # the comparisons of docs/reference/results.md: options and overrides
    "sandbox": (["--queries=2048", *LRS], ["experiment=sandbox", "rounds=4", *SMALL]),
    "cyclic": (["--queries=1024", *LRS, "--metric=eval/gap", "--lower"], ["experiment=cyclic", "rounds=4", *SMALL]),
}
COLUMNS = ("eval/win_rate", "eval/reward", "eval/accuracy", "eval/gap", "eval/gap_by_tone", "eval/kl", "eval/length")
QUERIES = "judge/queries"
RUN_ALL = "import sys; from rlhf_flow.cli.compare import run_all; sys.exit(run_all(sys.argv[1]))"
Row: TypeAlias = dict[str, str | float | None]


@dataclass(frozen=True)
class Run:
    """One run of an algorithm. `lr`: None for the learning rate of the configuration."""

    recipe: str
    lr: float | None
    seed: int
    rounds: int
    folder: Path

    @property
    def run_dir(self) -> Path:
        rate = "" if self.lr is None else f"-lr-{self.lr:g}"
        return self.folder / f"{self.recipe}{rate}-seed-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        """What distinguishes it from the other runs of its recipe."""
        rate = [] if self.lr is None else [f"learner.training.optimizer.lr={self.lr}"]
        return [*rate, f"seed={self.seed}", f"run_dir={self.run_dir}"]

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The metrics of each round from 0, the start; empty if the run has not finished."""
        path = self.run_dir / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return lines if len(lines) == self.rounds + 1 else []

    @property
    def row(self) -> Row:
        """The last metrics of a finished run, and the judge queries of all its rounds."""
        metrics = self.metrics
        ends = {key: value for key, value in metrics[-1].items() if key.startswith("eval/")}
        queries = sum(line.get(QUERIES, 0) for line in metrics)
        return {"recipe": self.recipe, "lr": self.lr, "seed": self.seed, **ends, QUERIES: queries}


def prompts_per_round(config: RunConfig, queries: int) -> int:
    """The batch with which a run stays within `queries`: answers that are rated, or pairs that are compared.

    Raises ValueError if that is less than one prompt.
    """
    n = sum(draw.n for draw in config.sampler.drawn.values())
    each = n * (n - 1) // 2 if config.scorer.intransitive else n
    batch = queries // (config.rounds * each)
    if batch < 1:
        least = config.rounds * each
        raise ValueError(f"--queries={queries}: one prompt per round needs {least}. Fix: --queries={least} or more.")
    return batch


def tuned(runs: Sequence[Run], metric: str, *, lower: bool) -> dict[str, float | None]:
    """The learning rate of each recipe whose run ended best. Raises ValueError if a run lacks the metric."""
    check_metric(runs, metric)
    done = sorted((run for run in runs if run.metrics), key=lambda run: run.metrics[-1][metric], reverse=not lower)
    return {run.recipe: run.lr for run in reversed(done)}


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raises ValueError if a finished run did not measure the metric."""
    for row in (run.row for run in runs if run.metrics):
        if metric not in row:
            measured = ", ".join(key for key in row if key.startswith("eval/"))
            raise ValueError(
                f"--metric={metric}: the runs of {row['recipe']} do not measure it. Fix: one of {measured}."
            )


def widened(lrs: Sequence[float], best: float) -> list[float]:
    """The learning rates, and one more if the best of them is the smallest or the largest."""
    grid = sorted(lrs)
    below, above = (float(f"{lr:.1g}") for lr in (grid[0] ** 2 / grid[1], grid[-1] ** 2 / grid[-2]))
    return sorted({*grid, *([below] if best == grid[0] else []), *([above] if best == grid[-1] else [])})


def table(runs: Sequence[Run], metric: str, *, lower: bool) -> str:
    """A Markdown row for each recipe, the best first: median, least and greatest over the seeds."""
    check_metric(runs, metric)
    rows = [run.row for run in runs if run.metrics]
    columns = [metric, *(key for key in COLUMNS if key != metric and all(key in row for row in rows))]
    found: list[tuple[float, str]] = []
    for recipe in dict.fromkeys(str(row["recipe"]) for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        lr = "" if own[0]["lr"] is None else f"{own[0]['lr']:g}"
        cells = [f"`{recipe}`", lr, *(_spread(own, key) for key in columns), f"{_median(own, QUERIES):.0f}"]
        found.append((_median(own, metric), f"| {' | '.join(cells)} |"))
    names = ["recipe", "learning rate", *(key.removeprefix("eval/").replace("_", " ") for key in columns), "queries"]
    head = [f"| {' | '.join(names)} |", "|---|" + "--:|" * (len(columns) + 2)]
    return "\n".join([*head, *(line for _, line in sorted(found, reverse=not lower))])


def _spread(rows: Sequence[Row], key: str) -> str:
    """Median, least and greatest; for a win rate the ends of the confidence intervals."""
    low, high, form = key, key, ".3g"
    if all(f"{key}_low" in row for row in rows):
        low, high, form = f"{key}_low", f"{key}_high", ".3f"
    least, most = min(_values(rows, low)), max(_values(rows, high))
    return f"{_median(rows, key):{form}} ({least:{form}} to {most:{form}})"


def _median(rows: Sequence[Row], key: str) -> float:
    return statistics.median(_values(rows, key))


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [float(row[key] or 0) for row in rows]


def commands(
    runs: Sequence[Run], overrides: Sequence[str], options: argparse.Namespace
) -> Iterator[tuple[Path, list[list[str]]]]:
    """By recipe, the arguments of `rlhf-flow run` for each run that has not finished."""
    for recipe, group in groupby(runs, key=lambda run: run.recipe):
        missing = [run for run in group if not run.metrics]
        if not missing:
            continue
        chosen = [*overrides, f"algorithm={recipe}"]
        config = compose(*chosen, folders=options.config_dir)
        chosen = [
            f"evaluate.every={config.rounds}",
            "checkpoint.every=99",
            "observe.console=false",
            *chosen,
            *(f"--config-dir={folder}" for folder in options.config_dir),
            f"prompts.batch={prompts_per_round(config, options.queries)}",
        ]
        yield missing[0].run_dir, [[*chosen, *run.overrides] for run in missing]


def check_folder(recipe: str, overrides: Sequence[str], options: argparse.Namespace) -> None:
    """Raises ValueError if the folder has a run of the recipe at other queries: the table would count it."""
    written = sorted(options.folder.glob(f"{recipe}-*seed-*/config.yaml"))
    if not written:
        return
    batch = prompts_per_round(compose(*overrides, f"algorithm={recipe}", folders=options.config_dir), options.queries)
    for path in written:
        made = yaml.safe_load(path.read_text(encoding="utf-8"))["prompts"]["batch"]
        if made != batch:
            raise ValueError(
                f"--folder={options.folder}: {path.parent.name} has prompts.batch={made}, --queries={options.queries} "
                f"gives {batch}. Fix: another --folder, or the --queries and rounds that it was made with."
            )


def execute(runs: Sequence[Run], overrides: Sequence[str], options: argparse.Namespace) -> bool:
    """Make the missing runs, `options.jobs` processes at a time. Returns whether all succeeded.

    If this process ends, its processes end too.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, machine.cores() // options.jobs)), **os.environ}

    def start(task: tuple[Path, list[list[str]]]) -> bool:
        first, several = task  # in one process: it imports once, and cluster=ray_persistent keeps its workers
        with Path(f"{first}.log").open("w") as log:
            command = [sys.executable, "-c", RUN_ALL, json.dumps(several)]
            code = subprocess.run(
                command, stdin=stdin, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            ).returncode
        print(f"{first}: {f'failed, see {first}.log' if code else 'done'}", file=sys.stderr, flush=True)
        return code == 0

    options.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool, shared_stdin() as stdin:
        return all(list(pool.map(start, commands(runs, overrides, options))))


def run_all(runs: str) -> int:
    """The highest exit status of runs, one after another. `runs`: JSON, the arguments of `rlhf-flow run` of each.

    The process ends if the one that started it does.
    """
    from rlhf_flow.cli.main import main

    end_with_parent()
    highest = 0
    for arguments in json.loads(runs):
        status = main(["run", *arguments])
        if status > 128:  # a signal stopped it
            return status
        highest = max(highest, status)
    return highest


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 if a run failed. Raises ValueError, or an error of Hydra, for a mistake."""
    typed = expanded([word for word in arguments if _is_override(word)])
    given = [word for word in arguments if not _is_override(word)]
    options, overrides = _parser().parse_args(given), typed
    if options.world:
        flags, defaults = WORLDS[options.world]
        keys = {override.partition("=")[0] for override in typed}
        overrides = [word for word in defaults if word.partition("=")[0] not in keys] + typed
        options = _parser().parse_args([*flags, *given])
    if options.queries is None:
        raise ValueError("--queries is missing: the judge queries that each run may use. Fix: --queries 4096.")
    recipes = options.recipes or _self_contained(overrides, options.config_dir)
    rounds = compose(*overrides, f"algorithm={recipes[0]}", folders=options.config_dir).rounds
    for recipe in recipes:
        check_folder(recipe, overrides, options)
    lower, metric, folder, good = options.lower, options.metric, options.folder, True
    lrs: dict[str, float | None] = dict.fromkeys(recipes, *(options.lrs if len(options.lrs) == 1 else ()))
    if len(options.lrs) > 1:
        grids = {recipe: list(options.lrs) for recipe in recipes}
        for _ in range(1 + WIDENINGS):
            tries = [Run(recipe, lr, TUNING_SEED, rounds, folder) for recipe in recipes for lr in grids[recipe]]
            good = execute(tries, overrides, options)
            lrs = tuned(tries, metric, lower=lower)
            grids = {recipe: widened(grid, lrs.get(recipe) or 0) for recipe, grid in grids.items()}
    runs = [Run(recipe, lr, seed, rounds, folder) for recipe, lr in lrs.items() for seed in options.seeds]
    good &= execute(runs, overrides, options)
    rows = [run.row for run in runs if run.metrics]
    (folder / "compared.json").write_text(json.dumps(rows, indent=1))
    with (folder / "compared.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    if rows:
        print(table(runs, metric, lower=lower))
    print(f"{len(rows)} of {len(runs)} runs: {folder / 'compared.csv'}, {folder / 'compared.json'}", file=sys.stderr)
    return 0 if good else 1


def _self_contained(overrides: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The recipes that need neither answers of a data set nor another policy, which the user must name."""
    found = []
    for recipe in RECIPES:
        try:
            config = compose(*overrides, f"algorithm={recipe}", folders=folders)
        except ValueError as error:
            print(f"left out: {recipe}: {error}", file=sys.stderr)
            continue
        continued = any(vars(draw).get("continues") for draw in config.sampler.drawn.values())
        if not continued and "dataset" not in config.sampler.sources.values():
            found.append(recipe)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = Arguments("rlhf-flow compare")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--queries", type=int)
    parser.add_argument("--lrs", type=float, nargs="+", default=[])
    parser.add_argument("--metric", default="eval/win_rate")
    parser.add_argument("--lower", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--world", choices=WORLDS)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    return parser


def _is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.endswith((".yaml", ".yml")))
