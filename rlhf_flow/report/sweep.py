"""The runs of a sweep: found from its folder, named by their swept values, in a table with the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from glob import escape
from math import inf, isnan
from pathlib import Path

from rlhf_flow.report.measures import MEASURES
from rlhf_flow.report.run_folder import Run, read
from rlhf_flow.report.side_by_side import last_value
from rlhf_flow.report.terminal import aligned
from rlhf_flow.system.visible_text import visible

SUFFIX = "-multirun"
SCORES = {"eval/win_rate": "maximize", "eval/accuracy": "maximize", "eval/loss": "minimize"}  # what sweepers optimise
COLUMNS = (*SCORES, "eval/kl", "eval/length", "train/loss")


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of a sweep: `rlhf-flow run run_dir=runs/mine --multirun …` has runs/mine-multirun."""
    return folder.resolve().name.endswith(SUFFIX) and not (folder / "config.yaml").exists()


def runs(folder: Path) -> list[Run]:
    """The runs of a sweep, the best first. Each is named by its swept values: `seed=1` for runs/mine-seed=1.

    Raises ValueError if there is none.
    """
    path = folder.resolve()
    base = path.name.removesuffix(SUFFIX)
    found = [read(config.parent) for config in sorted(path.parent.glob(f"{escape(base)}-*=*/config.yaml"))]
    if not found:
        raise ValueError(
            f"{folder}: no run of this sweep has started: there is no {path.parent / base}-*=*. "
            "Fix: name the folder of a sweep, or of a run."
        )
    return sorted((replace(run, name=run.name.removeprefix(f"{base}-")) for run in found), key=_place)


def _place(run: Run) -> float:
    for key, direction in SCORES.items():
        if series := run.series(key):
            value = series[max(series)]
            return inf if isnan(value) else -value if direction == "maximize" else value
    return inf


def table(runs: Sequence[Run]) -> str:
    """A line a run: the last value of each measure, with its interval and round, and how far the run is."""
    measured = [MEASURES[key] for key in COLUMNS if any(run.series(key) for run in runs)]
    columns = [("", [visible(run.name) for run in runs])]
    columns += [(measure.title, [last_value(run, measure) for run in runs]) for measure in measured]
    return aligned([*columns, ("", [_state(run) for run in runs])])


def _state(run: Run) -> str:
    if run.finished:
        return ""
    return f"not finished: round {run.done + 1}" + ("" if run.rounds is None else f" of {run.rounds}")
