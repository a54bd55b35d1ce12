"""Results of `rlhf-flow eval --tasks` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlhf_flow.report.format import with_ends
from rlhf_flow.report.run_folder import Run
from rlhf_flow.system.files import read_json

Results = Mapping[str, Mapping[str, Mapping[str, float]]]  # policy -> task -> metric -> value, `_low` and `_high`


def results_of(run: Path) -> Results:
    """The results in RUN/eval; empty if there are none."""
    path = run / "eval" / "eval.json"
    found: Results = read_json(path).get("tasks", {}) if path.is_file() else {}
    return found


def rows(results: Results) -> list[list[str]]:
    """A row for each metric of each task: task, metric, and a cell for each policy."""
    measured = dict.fromkeys((task, key) for found in results.values() for task, row in found.items() for key in row)
    shown = [(task, key) for task, key in measured if not key.endswith(("_low", "_high"))]
    return [[task, key, *(with_ends(found.get(task, {}), key) for found in results.values())] for task, key in shown]


def of_card(run: Run, round: int) -> str:
    """A table of `rlhf-flow eval --tasks` for the starting model and this round; empty without results of the round."""
    found = {name.rpartition("/")[2]: result for name, result in results_of(run.folder).items()}
    named = {f"{run.name}@0": "starting model", f"{run.name}@{round}": f"round {round}"}
    results = {label: found[name] for name, label in named.items() if name in found}
    if f"round {round}" not in results:
        return ""
    lines = [["task", "metric", *results], ["---"] * (2 + len(results)), *rows(results)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"\n\nTasks of lm-evaluation-harness, with 95 % intervals by its standard errors:\n\n{table}"
