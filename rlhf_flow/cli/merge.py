"""`rlhf-flow merge`: one adapter from several, with weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.cli.arguments import Arguments, is_key
from rlhf_flow.export.adapters import merge_adapters
from rlhf_flow.storage.run_policies import named_policy


def main(arguments: Sequence[str]) -> int:
    """Write the adapter and print where it is. Raises ValueError for a mistake in the arguments or an adapter."""
    parser = Arguments("rlhf-flow merge")
    parser.add_argument("out", type=Path, metavar="TO")
    parser.add_argument("terms", nargs="+", metavar="ADAPTER[=WEIGHT]")
    options = parser.parse_args(arguments)
    if len(options.terms) < 2:
        raise ValueError("merge takes two or more adapters. Try rlhf-flow merge TO FIRST=0.5 SECOND=0.5, or --help.")
    print(merge_adapters([_term(word) for word in options.terms], options.out))
    return 0


def _term(word: str) -> tuple[Path, float]:
    """Folder and weight of ADAPTER[=WEIGHT], where ADAPTER may be RUN or RUN@WHICH; folders may hold `=`, too."""
    if not is_key(word):
        return _adapter(word), 1.0
    name, _, weight = word.rpartition("=")
    try:
        factor = float(weight)
    except ValueError:
        raise ValueError(f"{word}: there is no such adapter, and {weight!r} is no weight. Fix: {name}=0.5.") from None
    return _adapter(name), factor


def _adapter(name: str) -> Path:
    policy = named_policy(name)
    return Path(name) if policy is None else policy.folder
