"""`rlhf-flow report`: the pages and files that a user asks for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlhf_flow import report


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. Try rlhf-flow report --help.")


def main(arguments: Sequence[str]) -> int:
    """Write what is asked for and print where it is. Raises ValueError if the arguments or a folder are wrong."""
    parser = _Arguments(prog="rlhf-flow report", add_help=False)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args(arguments)
    if asked.csv is not None and len(asked.runs) > 1:
        raise ValueError("--csv writes the charts of one run, got several. Name one run.")
    print(report.write(asked.runs[0]) if len(asked.runs) == 1 else report.write_comparison(asked.runs))
    if asked.csv is not None:
        for path in report.write_csv(asked.runs[0], asked.csv):
            print(path)
    return 0
