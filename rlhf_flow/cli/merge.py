"""`rlhf-flow merge`: one checkpoint or adapter from several, with weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.cli.arguments import Arguments, is_key
from rlhf_flow.export.adapters import merge_adapters
from rlhf_flow.export.checkpoints import merge_checkpoints
from rlhf_flow.storage.run_policies import named_policy
from rlhf_flow.weights.source import SETTINGS
from rlhf_flow.weights.start_checkpoint import merging


def main(arguments: Sequence[str]) -> int:
    """Write the result and print where it is. Raises ValueError for a mistake in the arguments or a checkpoint."""
    parser = Arguments("rlhf-flow merge")
    parser.add_argument("out", type=Path, metavar="TO")
    parser.add_argument("terms", nargs="+", metavar="MODEL[=WEIGHT]")
    options = parser.parse_args(arguments)
    if len(options.terms) < 2:
        raise ValueError("merge takes two or more models. Try rlhf-flow merge TO FIRST=0.5 SECOND=0.5, or --help.")
    terms = [_term(word) for word in options.terms]
    adapters = [folder for folder, _ in terms if (folder / SETTINGS).is_file()]
    if 0 < len(adapters) < len(terms):
        raise ValueError(f"{adapters[0]} is an adapter, and others are full weights. Fix: {merging(adapters[0])}")
    print((merge_adapters if adapters else merge_checkpoints)(terms, options.out))
    return 0


def _term(word: str) -> tuple[Path, float]:
    """Folder and weight of MODEL[=WEIGHT], where MODEL may be RUN or RUN@WHICH; folders may hold `=`, too."""
    if not is_key(word):
        return _folder(word), 1.0
    name, _, weight = word.rpartition("=")
    try:
        factor = float(weight)
    except ValueError:
        raise ValueError(f"{word}: there is no such model, and {weight!r} is no weight. Fix: {name}=0.5.") from None
    return _folder(name), factor


def _folder(name: str) -> Path:
    policy = named_policy(name)
    return Path(name) if policy is None else policy.folder
