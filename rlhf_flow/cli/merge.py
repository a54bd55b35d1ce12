"""`rlhf-flow merge`: one adapter from several, with weights."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlhf_flow.export.adapters import merge_adapters
from rlhf_flow.storage.run_policies import named_policy


class _Arguments(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. Try rlhf-flow merge --help.")


def main(arguments: Sequence[str]) -> int:
    """Write the adapter and print where it is. Raises ValueError for a mistake in the arguments or an adapter."""
    parser = _Arguments(prog="rlhf-flow merge", allow_abbrev=False, add_help=False)
    parser.add_argument("out", type=Path, metavar="TO")
    parser.add_argument("terms", nargs="+", metavar="ADAPTER[=WEIGHT]")
    options = parser.parse_args(arguments)
    if len(options.terms) < 2:
        raise ValueError("merge takes two or more adapters. Try rlhf-flow merge TO FIRST=0.5 SECOND=0.5, or --help.")
    print(merge_adapters([_term(word) for word in options.terms], options.out))
    return 0


def _term(word: str) -> tuple[Path, float]:
    """Folder and weight of ADAPTER[=WEIGHT], where ADAPTER may be RUN or RUN@ROUND."""
    name, equals, weight = word.rpartition("=")
    try:
        factor = float(weight) if equals else 1.0
    except ValueError:
        raise ValueError(f"{word}: the weight is no number. Fix: {name}=0.5.") from None
    adapter = name if equals else word
    policy = named_policy(adapter)
    return (Path(adapter) if policy is None else policy.folder), factor
