"""The report of a run: a self-contained HTML page, its numbers as CSV, and a summary for the terminal.

Every function raises ValueError if a folder holds no run, or if a file of it cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PAGE = "report.html"


def write(run_dir: Path) -> Path:
    """Write `report.html` into the run's folder and return its path. The same folder gives the same bytes."""
    from rlhf_flow.report.page import render
    from rlhf_flow.report.run_folder import read

    return _put(run_dir / PAGE, render(read(run_dir)))


def write_comparison(run_dirs: Sequence[Path]) -> Path:
    """Write `compared.html` into the first run's folder, with 2 to 4 runs side by side, and return its path."""
    from rlhf_flow.report.run_folder import read
    from rlhf_flow.report.side_by_side import render

    return _put(run_dirs[0] / "compared.html", render([read(folder) for folder in run_dirs]))


def write_sweep(folder: Path) -> tuple[str, Path]:
    """A table of the runs of a sweep, the best first, and the path of its page.

    The page compares the best four in `compared.html` in the sweep's folder; a single run has its own report.
    """
    from rlhf_flow.report import side_by_side, sweep

    runs = sweep.runs(folder)
    if len(runs) == 1:
        return sweep.table(runs), write(runs[0].folder)
    folder.mkdir(exist_ok=True)
    return sweep.table(runs), _put(folder / "compared.html", side_by_side.render(runs[: side_by_side.MOST]))


def write_csv(run_dir: Path, folder: Path) -> list[Path]:
    """Write one CSV for each chart of the report into `folder`, and return their paths."""
    from rlhf_flow.report.figures import csv_files
    from rlhf_flow.report.run_folder import read

    files = csv_files(read(run_dir))
    folder.mkdir(parents=True, exist_ok=True)
    return [_put(folder / name, text) for name, text in files.items()]


def table(run_dir: Path) -> str:
    """The rounds of a run, one a line."""
    from rlhf_flow.report.run_folder import read
    from rlhf_flow.report.terminal import table

    return table(read(run_dir))


def samples(run_dir: Path, n: int = 3) -> str:
    """The `n` held-out answers that changed most in the last evaluated round, before and after."""
    from rlhf_flow.report.run_folder import read
    from rlhf_flow.report.terminal import samples

    return samples(read(run_dir), n)


def _put(path: Path, text: str) -> Path:
    """Replace a file atomically."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
    return path
