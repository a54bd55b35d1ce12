"""The runs that `rlhf-flow compare` compares: their folders, what they ended with, and the table of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rlhf_flow.cli.compared_data import NOTHING, Given
from rlhf_flow.metrics.digits import places

COLUMNS = ("eval/win_rate", "eval/reward", "eval/accuracy", "eval/gap", "eval/gap_by_tone", "eval/kl", "eval/length")
QUERIES = "judge/queries"
Row: TypeAlias = dict[str, str | float | None]


@dataclass(frozen=True)
class Run:
    """One run of an algorithm. `lr`: None for the learning rate of the configuration."""

    recipe: str
    lr: float | None
    seed: int
    rounds: int
    folder: Path
    given: Given = NOTHING  # what it reads besides its own answers

    @property
    def run_dir(self) -> Path:
        rate = "" if self.lr is None else f"-lr-{self.lr:g}"
        return self.folder / f"{self.recipe}{rate}-seed-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        """What distinguishes it from the other runs of its recipe."""
        rate = [] if self.lr is None else [f"learner.training.optimizer.lr={self.lr}"]
        return [*self.given.overrides, *rate, f"seed={self.seed}", f"run_dir={self.run_dir}"]

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The metrics of each round from 0, the start; empty if the run has not finished."""
        path = self.run_dir / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return lines if len(lines) == self.rounds + 1 else []

    @property
    def row(self) -> Row:
        """The last metrics of a finished run, and the judge queries of all its rounds and of what it reads."""
        metrics = self.metrics
        ends = {key: value for key, value in metrics[-1].items() if key.startswith("eval/")}
        asked = 0 if self.given.labelled else sum(line.get(QUERIES, 0) for line in metrics)
        queries = asked + self.given.queries
        return {"recipe": self.recipe, "lr": self.lr, "seed": self.seed, **ends, QUERIES: queries}


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


def at_edge(tries: Sequence[Run], lrs: Mapping[str, float | None]) -> list[str]:
    """The recipes whose chosen learning rate is the smallest or the largest that was tried."""
    tried: dict[str, list[float]] = {}
    for run in tries:
        tried.setdefault(run.recipe, []).append(run.lr or 0)
    return [recipe for recipe, lr in lrs.items() if lr in (min(tried[recipe]), max(tried[recipe]))]


def table(runs: Sequence[Run], metric: str, *, lower: bool, edges: Sequence[str] = ()) -> str:
    """A Markdown row for each recipe, the best first: median, least and greatest over the seeds; and notes.

    `edges`: the recipes whose learning rate is at the end of those tried.
    """
    check_metric(runs, metric)
    rows = [run.row for run in runs if run.metrics]
    columns = [metric, *(key for key in COLUMNS if key != metric and any(key in row for row in rows))]
    found: list[tuple[float, str]] = []
    for recipe in dict.fromkeys(str(row["recipe"]) for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        lr = "" if own[0]["lr"] is None else f"{own[0]['lr']:g}"
        cells = [f"`{recipe}`", lr, *(_spread(own, key) for key in columns), f"{_median(own, QUERIES):.0f}"]
        found.append((_median(own, metric), f"| {' | '.join(cells)} |"))
    names = ["recipe", "learning rate", *(key.removeprefix("eval/").replace("_", " ") for key in columns), "queries"]
    head = [f"| {' | '.join(names)} |", "|---|" + "--:|" * (len(columns) + 2)]
    return "\n".join([*head, *(line for _, line in sorted(found, reverse=not lower)), *_notes(runs, edges)])


def _notes(runs: Sequence[Run], edges: Sequence[str]) -> Iterator[str]:
    """Which learning rates may not be the best, and what else than a recipe's own answers its queries count."""
    if edges:
        names = ", ".join(f"`{recipe}`" for recipe in edges)
        yield f"\n{names}: the learning rate is the smallest or the largest tried. A better one may lie beyond."
    for cost, what in (
        ("each", "for each prompt, for comparing the two answers of the start that the recipe reads"),
        ("once", "of the DPO run whose policy the recipe reads"),
    ):
        reading = {run.recipe: vars(run.given)[cost] for run in runs if run.metrics and vars(run.given)[cost]}
        if reading:
            names = ", ".join(f"`{recipe}`" for recipe in reading)
            yield f"\n{names}: the queries include {max(reading.values())} {what}."


def _spread(rows: Sequence[Row], key: str) -> str:
    """Median, least and greatest; for a win rate the ends of the confidence intervals. Empty if not all measured it."""
    if not all(key in row for row in rows):
        return ""
    low, high = (f"{key}_low", f"{key}_high") if all(f"{key}_low" in row for row in rows) else (key, key)
    least, most = min(_values(rows, low)), max(_values(rows, high))
    form = ".3g" if low == key else f".{places(least, most)}f"
    return f"{_median(rows, key):{form}} ({least:{form}} to {most:{form}})"


def _median(rows: Sequence[Row], key: str) -> float:
    return statistics.median(_values(rows, key))


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [float(row[key] or 0) for row in rows]
