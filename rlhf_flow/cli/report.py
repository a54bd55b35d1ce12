"""`rlhf-flow report`: write the report of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_flow import report
from rlhf_flow.cli.arguments import Arguments
from rlhf_flow.report.sweep import is_sweep


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its path, of a sweep after a table of its runs.

    Raises ValueError if the arguments or a folder are wrong.
    """
    parser = Arguments("rlhf-flow report")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    if options.csv is not None and len(options.runs) > 1:
        raise ValueError(f"--csv writes the charts of one run, got {len(options.runs)} runs. Fix: name one.")
    if len(options.runs) == 1 and is_sweep(options.runs[0]):
        if options.csv is not None:
            raise ValueError("--csv writes the charts of one run, got a sweep. Fix: name one of its runs.")
        print(*report.write_sweep(options.runs[0]), sep="\n\n")
        return 0
    print(report.write(options.runs[0]) if len(options.runs) == 1 else report.write_comparison(options.runs))
    if options.csv is not None:
        for path in report.write_csv(options.runs[0], options.csv):
            print(path)
    return 0
