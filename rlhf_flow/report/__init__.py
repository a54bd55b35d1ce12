"""What a run has to show: a page that opens from disk anywhere, and the same in short for the terminal."""

from __future__ import annotations

from pathlib import Path


def write(run_dir: Path) -> Path:
    """Write `report.html` into the run's folder and return its path. The same folder gives the same page, to the byte.

    Raises ValueError where `run_dir` holds no run, or a file of it cannot be read.
    """
    from rlhf_flow.report.folder import read
    from rlhf_flow.report.page import render

    path = run_dir / "report.html"
    aside = run_dir / ".report.html"
    aside.write_text(render(read(run_dir)), encoding="utf-8", newline="\n")
    aside.replace(path)
    return path


def table(run_dir: Path) -> str:
    """The rounds of a run, one a line. Raises ValueError as `write` does."""
    from rlhf_flow.report.folder import read
    from rlhf_flow.report.terminal import table

    return table(read(run_dir))


def samples(run_dir: Path, n: int = 3) -> str:
    """`n` held-out answers before and after. Raises ValueError as `write` does."""
    from rlhf_flow.report.folder import read
    from rlhf_flow.report.terminal import samples

    return samples(read(run_dir), n)
