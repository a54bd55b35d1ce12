"""`rlhf-flow compare`: run several algorithms with the same number of judge queries, and tabulate how they end."""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import yaml

from rlhf_flow.cli import compared_data
from rlhf_flow.cli.arguments import Arguments, folder
from rlhf_flow.cli.compared_data import MAKER, NOTHING, Given, prompts_per_round
from rlhf_flow.cli.compared_runs import Run, at_edge, table, tuned, widened
from rlhf_flow.config.compose import CONFIGS, compose
from rlhf_flow.config.overrides import expanded
from rlhf_flow.export.dataset import write_dataset
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
RUN_ALL = "import sys; from rlhf_flow.cli.compare import run_all; sys.exit(run_all(sys.argv[1]))"


def commands(
    runs: Sequence[Run], overrides: Sequence[str], options: argparse.Namespace
) -> Iterator[tuple[Path, list[list[str]]]]:
    """By recipe, the arguments of `rlhf-flow run` for each run that has not finished."""
    for recipe, group in groupby(runs, key=lambda run: run.recipe):
        missing = [run for run in group if not run.metrics]
        if not missing:
            continue
        chosen, given = [*overrides, f"algorithm={recipe}"], missing[0].given
        config = compose(*chosen, *given.overrides, folders=options.config_dir)
        chosen = [
            f"evaluate.every={config.rounds}",
            "checkpoint.every=99",
            "observe.console=false",
            *chosen,
            *_config_dirs(options),
            f"prompts.batch={prompts_per_round(config, options.queries, given)}",
        ]
        yield missing[0].run_dir, [[*chosen, *run.overrides] for run in missing]


def check_folder(name: str, batch: Callable[[], int], options: argparse.Namespace) -> None:
    """Raises ValueError if the folder has a run of this name with another batch: the table would count it."""
    for path in sorted(options.folder.glob(f"{name}-*seed-*/config.yaml")):
        made = yaml.safe_load(path.read_text(encoding="utf-8"))["prompts"]["batch"]
        if made != batch():
            raise ValueError(
                f"--folder={options.folder}: {path.parent.name} has prompts.batch={made}, --queries={options.queries} "
                f"gives {batch()}. Fix: another --folder, or the --queries and rounds that it was made with."
            )


def execute(runs: Sequence[Run], overrides: Sequence[str], options: argparse.Namespace) -> bool:
    """Make the missing runs, and first the data that they read. Returns whether all succeeded."""
    options.folder.mkdir(parents=True, exist_ok=True)
    seeds = {run.seed for run in runs if run.given.overrides and not run.metrics}
    makers = [Run(MAKER, None, seed, compared_data.ROUNDS, options.folder) for seed in sorted(seeds)]
    if missing := [run for run in makers if not run.metrics]:
        chosen = [*compared_data.maker(overrides, options.queries, options.config_dir), *_config_dirs(options)]
        start([(run.run_dir, [[*chosen, *run.overrides]]) for run in missing], options)
    for run in makers:
        if run.metrics and not compared_data.pairs(run.run_dir).is_file():
            write_dataset("pairs", run.run_dir)
    return start(commands(runs, overrides, options), options)


def start(tasks: Iterable[tuple[Path, list[list[str]]]], options: argparse.Namespace) -> bool:
    """Start each task, the first folder and the arguments of its runs, `options.jobs` processes at a time.

    Returns whether all succeeded. If this process ends, its processes end too.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, machine.cores() // options.jobs)), **os.environ}

    def succeeds(task: tuple[Path, list[list[str]]]) -> bool:
        first, several = task  # in one process: it imports once, and cluster=ray_persistent keeps its workers
        with Path(f"{first}.log").open("w") as log:
            command = [sys.executable, "-c", RUN_ALL, json.dumps(several)]
            code = subprocess.run(
                command, stdin=stdin, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            ).returncode
        print(f"{first}: {f'failed, see {first}.log' if code else 'done'}", file=sys.stderr, flush=True)
        return code == 0

    with ThreadPoolExecutor(options.jobs) as pool, shared_stdin() as stdin:
        return all(list(pool.map(succeeds, tasks)))


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
    givens = _givens(TUNING_SEED, overrides, options)
    _check_folder(givens, overrides, options)
    first, given_first = next(iter(givens.items()))
    rounds = compose(*overrides, f"algorithm={first}", *given_first.overrides, folders=options.config_dir).rounds
    lower, metric, folder, good = options.lower, options.metric, options.folder, True
    lrs: dict[str, float | None] = dict.fromkeys(givens, *(options.lrs if len(options.lrs) == 1 else ()))
    edges: list[str] = []
    if len(options.lrs) > 1:
        lrs, edges, good = _tuned(givens, rounds, overrides, options)
    by_seed = {seed: _givens(seed, overrides, options, givens) for seed in options.seeds}
    runs = [
        Run(recipe, lr, seed, rounds, folder, by_seed[seed][recipe])
        for recipe, lr in lrs.items()
        for seed in options.seeds
    ]
    good &= execute(runs, overrides, options)
    rows = [run.row for run in runs if run.metrics]
    (folder / "compared.json").write_text(json.dumps(rows, indent=1))
    with (folder / "compared.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    if rows:
        print(table(runs, metric, lower=lower, edges=edges))
    print(f"{len(rows)} of {len(runs)} runs: {folder / 'compared.csv'}, {folder / 'compared.json'}", file=sys.stderr)
    return 0 if good else 1


def _tuned(
    givens: Mapping[str, Given], rounds: int, overrides: Sequence[str], options: argparse.Namespace
) -> tuple[dict[str, float | None], list[str], bool]:
    """The learning rate of each recipe, the recipes whose widened grid ends with it, and whether all runs succeeded."""
    grids = {recipe: list(options.lrs) for recipe in givens}
    for _ in range(1 + WIDENINGS):
        tries = [
            Run(recipe, lr, TUNING_SEED, rounds, options.folder, given)
            for recipe, given in givens.items()
            for lr in grids[recipe]
        ]
        good = execute(tries, overrides, options)
        lrs = tuned(tries, options.metric, lower=options.lower)
        grids = {recipe: widened(grid, lrs.get(recipe) or 0) for recipe, grid in grids.items()}
    return lrs, at_edge(tries, lrs), good


def _givens(
    seed: int, overrides: Sequence[str], options: argparse.Namespace, known: Mapping[str, Given] | None = None
) -> dict[str, Given]:
    """The recipes that are compared, and what each reads: in a world, what is made with the seed; else nothing.

    Without --recipes, a recipe that does not fit is left out, and one that reads what the user must name.
    `known`: those of another seed.
    """
    made, found = Run(MAKER, None, seed, compared_data.ROUNDS, options.folder).run_dir, {}
    if options.recipes and not options.world:
        return dict.fromkeys(options.recipes, NOTHING)
    for recipe in known or options.recipes or RECIPES:
        try:
            if known is None or known[recipe].overrides:
                given = compared_data.needed(recipe, made, options.queries, overrides, options.config_dir)
            else:
                given = NOTHING
        except ValueError as error:
            if options.recipes:
                raise ValueError(f"--recipes={recipe}: {error}") from error
            print(f"left out: {recipe}: {error}", file=sys.stderr)
            continue
        if given.overrides and not options.world:
            print(f"left out: {recipe}: name the answers or the policy that it reads, and --recipes", file=sys.stderr)
        else:
            found[recipe] = given
    return found


def _check_folder(givens: Mapping[str, Given], overrides: Sequence[str], options: argparse.Namespace) -> None:
    """As `check_folder`, for the recipes and for the data that they read."""

    @cache
    def batch(recipe: str) -> int:
        given = givens[recipe]
        config = compose(*overrides, f"algorithm={recipe}", *given.overrides, folders=options.config_dir)
        return prompts_per_round(config, options.queries, given)

    @cache
    def of_data() -> int:
        return compared_data.prompts_of_maker(overrides, options.queries, options.config_dir)

    for recipe in givens:
        check_folder(recipe, partial(batch, recipe), options)
    if any(given.overrides for given in givens.values()):
        check_folder(MAKER, of_data, options)


def _config_dirs(options: argparse.Namespace) -> list[str]:
    return [f"--config-dir={folder}" for folder in options.config_dir]


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
    parser.add_argument("--config-dir", "-cd", action="append", default=[], type=folder)
    return parser


def _is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.endswith((".yaml", ".yml")))
