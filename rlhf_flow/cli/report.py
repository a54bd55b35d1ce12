"""`rlhf-flow report`: write the report of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_flow import report
from rlhf_flow.cli.arguments import Arguments


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its path. Raises ValueError if the arguments or a folder are wrong."""
    parser = Arguments("rlhf-flow report")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    if options.csv is not None and len(options.runs) > 1:
        raise ValueError(f"--csv writes the charts of one run, got {len(options.runs)} runs. Fix: name one.")
    print(report.write(options.runs[0]) if len(options.runs) == 1 else report.write_comparison(options.runs))
    if options.csv is not None:
        for path in report.write_csv(options.runs[0], options.csv):
            print(path)
    return 0
